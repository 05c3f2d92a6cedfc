-- +goose Up

CREATE TYPE channel AS ENUM ('email', 'sms', 'push', 'inapp');
CREATE TYPE delivery_state AS ENUM ('pending', 'sending', 'in_doubt', 'sent', 'delivered', 'failed', 'skipped', 'dead');
CREATE TYPE outcome AS ENUM ('accepted', 'rejected', 'throttled', 'unavailable', 'ambiguous', 'released');
CREATE TYPE publication_state AS ENUM ('accepted', 'scheduled', 'running', 'paused', 'cancelled', 'completed', 'completed_with_failures', 'expired');

-- A UUIDv7 by this server's clock. Ids order by time, which lets deliveries be
-- partitioned by time and keep (publication, subscriber, channel) as their key.
-- +goose StatementBegin
CREATE FUNCTION uuid_v7(at timestamptz DEFAULT clock_timestamp()) RETURNS uuid
  LANGUAGE sql VOLATILE PARALLEL SAFE
  RETURN encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
    PLACING substring(int8send(floor(extract(epoch FROM at) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
    52, 1), 53, 1), 'hex')::uuid;
-- +goose StatementEnd

-- The smallest UUIDv7 of a moment: the bound of a partition.
-- +goose StatementBegin
CREATE FUNCTION uuid_v7_floor(at timestamptz) RETURNS uuid
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN encode(substring(int8send(floor(extract(epoch FROM at) * 1000)::bigint) FROM 3) || '\x70008000000000000000'::bytea, 'hex')::uuid;
-- +goose StatementEnd

-- Totals never stand here: claims lock this row FOR SHARE, and every settle
-- would have to wait for them.
CREATE TABLE publications (
  publication_id uuid PRIMARY KEY,
  key          text NOT NULL,
  topic_id     bigint NOT NULL REFERENCES topics,
  class        text NOT NULL,
  channels     channel[] NOT NULL,
  content      jsonb NOT NULL,
  request      jsonb NOT NULL, -- as sent, normalised, before defaults; a repeat is compared with it
  state        publication_state NOT NULL,
  resume_state publication_state, -- where resume leads
  cut          bigint NOT NULL,
  audience     bigint NOT NULL, -- on each channel
  accepted_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  scheduled_at timestamptz,
  expires_at   timestamptz NOT NULL,
  started_at   timestamptz,
  stopped_at   timestamptz,
  finished_at  timestamptz,
  CONSTRAINT publication_key_is_taken UNIQUE (key),
  CONSTRAINT publication_key_is_1_to_200_plain_characters CHECK (key ~ '^[A-Za-z0-9._:@-]+$' AND octet_length(key) <= 200),
  CONSTRAINT publication_class_is_known CHECK (class IN ('bulk', 'transactional')),
  CONSTRAINT publication_has_a_channel CHECK (cardinality(channels) > 0),
  CONSTRAINT publication_audience_is_not_negative CHECK (audience >= 0),
  CONSTRAINT publication_expires_after_it_starts CHECK (expires_at > COALESCE(scheduled_at, accepted_at)),
  CONSTRAINT a_paused_publication_knows_where_to_resume CHECK ((state = 'paused') = (resume_state IS NOT NULL)),
  CONSTRAINT an_open_publication_is_not_finished CHECK (NOT (state IN ('accepted', 'scheduled', 'running', 'paused') AND finished_at IS NOT NULL)),
  CONSTRAINT a_completed_publication_is_finished CHECK (NOT (state IN ('completed', 'completed_with_failures') AND finished_at IS NULL)),
  CONSTRAINT a_stopped_publication_has_its_time CHECK ((state IN ('cancelled', 'expired')) = (stopped_at IS NOT NULL))
);
-- The sweep reads it every minute; it holds only what is not finished.
CREATE INDEX publications_unfinished ON publications (publication_id) WHERE finished_at IS NULL;
CREATE INDEX publications_by_topic ON publications (topic_id, publication_id);

CREATE TABLE idempotency_keys (
  idempotency_key text PRIMARY KEY,
  fingerprint     bytea NOT NULL,
  publication_id  uuid NOT NULL REFERENCES publications,
  created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT idempotency_key_is_at_most_200_bytes CHECK (octet_length(idempotency_key) BETWEEN 1 AND 200)
);

-- A slice of the audience on one channel, with its totals. Pending is not kept:
-- it is what is left of intended.
CREATE TABLE batches (
  publication_id  uuid NOT NULL REFERENCES publications,
  channel         channel NOT NULL,
  n               integer NOT NULL,
  first_number    bigint NOT NULL,
  last_number     bigint NOT NULL,
  claimed_through bigint NOT NULL, -- everyone up to here has a row
  intended        bigint NOT NULL,
  sending         bigint NOT NULL DEFAULT 0,
  in_doubt        bigint NOT NULL DEFAULT 0,
  sent            bigint NOT NULL DEFAULT 0,
  delivered       bigint NOT NULL DEFAULT 0,
  failed          bigint NOT NULL DEFAULT 0,
  skipped         bigint NOT NULL DEFAULT 0,
  dead            bigint NOT NULL DEFAULT 0,
  started_at      timestamptz,
  PRIMARY KEY (publication_id, channel, n),
  CONSTRAINT batch_counts_from_1 CHECK (n >= 1),
  CONSTRAINT batch_range_is_in_order CHECK (first_number <= last_number),
  CONSTRAINT batch_cursor_is_in_its_range CHECK (claimed_through BETWEEN first_number - 1 AND last_number),
  CONSTRAINT batch_totals_are_not_negative CHECK (LEAST(sending, in_doubt, sent, delivered, failed, skipped, dead) >= 0),
  CONSTRAINT batch_totals_do_not_exceed_intended CHECK (sending + in_doubt + sent + delivered + failed + skipped + dead <= intended)
) WITH (fillfactor = 50); -- its totals change with every chunk, and no index covers them

-- Why recipients were skipped, failed or died: one row per reason and batch.
CREATE TABLE batch_reasons (
  publication_id uuid NOT NULL,
  channel        channel NOT NULL,
  n              integer NOT NULL,
  state          delivery_state NOT NULL,
  reason         text NOT NULL, -- the reason, or <provider>:<code>
  count          bigint NOT NULL,
  PRIMARY KEY (publication_id, channel, n, state, reason),
  FOREIGN KEY (publication_id, channel, n) REFERENCES batches,
  CONSTRAINT batch_reason_count_is_not_negative CHECK (count >= 0)
) WITH (fillfactor = 50);

-- One request to a provider: the lease, and what became of it.
CREATE TABLE calls (
  publication_id uuid NOT NULL,
  call_id        uuid NOT NULL,
  channel        channel NOT NULL,
  batch          integer NOT NULL,
  first_number   bigint NOT NULL,
  last_number    bigint NOT NULL,
  size           integer NOT NULL,
  provider       text NOT NULL,
  claimed_at     timestamptz NOT NULL,
  begin_by       timestamptz NOT NULL, -- no call begins later
  call_until     timestamptz NOT NULL, -- no call lasts longer
  ended_at       timestamptz,
  outcome        outcome,
  code           text,
  detail         text,
  provider_id    text,
  evidence       text, -- how a doubtful call was settled, or what came late
  PRIMARY KEY (publication_id, call_id),
  CONSTRAINT call_times_are_in_order CHECK (claimed_at < begin_by AND begin_by < call_until),
  CONSTRAINT call_has_an_outcome_when_it_ended CHECK ((outcome IS NULL) = (ended_at IS NULL)),
  CONSTRAINT call_range_is_in_order CHECK (first_number <= last_number AND size > 0)
) PARTITION BY RANGE (publication_id);
CREATE INDEX calls_by_batch ON calls (publication_id, channel, batch, call_id);

-- The unit of truth. No index holds a column that changes, so that a settle is
-- a HOT update where its page has room: fillfactor 70 keeps room for one such
-- update in most pages without growing the table as much as 50 would.
CREATE TABLE deliveries (
  publication_id    uuid NOT NULL,
  subscriber_number bigint NOT NULL,
  channel           channel NOT NULL,
  batch             integer NOT NULL,
  state             delivery_state NOT NULL,
  attempts          smallint NOT NULL DEFAULT 0, -- that count towards "retries exhausted"
  resends           smallint NOT NULL DEFAULT 0, -- sent again without evidence
  changed_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
  call_id           uuid,        -- the newest call
  due_at            timestamptz, -- pending: not before; in doubt: the deadline
  reason            text,
  code              text,
  PRIMARY KEY (publication_id, subscriber_number, channel),
  CONSTRAINT delivery_under_way_or_sent_has_a_call CHECK (call_id IS NOT NULL OR state IN ('pending', 'skipped')),
  CONSTRAINT waiting_delivery_has_a_time CHECK ((state IN ('pending', 'in_doubt')) = (due_at IS NOT NULL)),
  CONSTRAINT skipped_or_dead_delivery_has_a_reason CHECK ((state IN ('skipped', 'dead')) = (reason IS NOT NULL)),
  CONSTRAINT failed_delivery_has_a_code CHECK (state <> 'failed' OR code IS NOT NULL),
  CONSTRAINT delivery_is_resent_at_most_once CHECK (resends BETWEEN 0 AND 1),
  CONSTRAINT delivery_attempts_are_not_negative CHECK (attempts >= 0)
) PARTITION BY RANGE (publication_id);

-- One delivery's part in a call that did not accept it. Who was accepted at
-- the first attempt has none.
CREATE TABLE attempts (
  publication_id    uuid NOT NULL,
  subscriber_number bigint NOT NULL,
  channel           channel NOT NULL,
  call_id           uuid NOT NULL,
  outcome           outcome NOT NULL,
  code              text,
  at                timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (publication_id, subscriber_number, channel, call_id)
) PARTITION BY RANGE (publication_id);

-- The few deliveries that wait, are in doubt, failed or are dead, so that they
-- are found without reading the others.
CREATE TABLE attention (
  publication_id    uuid NOT NULL,
  channel           channel NOT NULL,
  state             delivery_state NOT NULL,
  subscriber_number bigint NOT NULL,
  batch             integer NOT NULL,
  due_at            timestamptz,
  PRIMARY KEY (publication_id, channel, state, subscriber_number),
  CONSTRAINT attention_is_for_what_waits_or_went_wrong CHECK (state IN ('pending', 'in_doubt', 'failed', 'dead'))
);
-- When the next of a batch is due. Batch comes first so that nothing else can be
-- looked for in it: what is asked of a publication belongs to the primary key.
CREATE INDEX attention_by_batch ON attention (batch, publication_id, channel, state, due_at);

-- Whose turn it was for an address that several subscribers share.
CREATE TABLE shared_addresses (
  publication_id    uuid NOT NULL,
  channel           channel NOT NULL,
  address_hash      bytea NOT NULL,
  subscriber_number bigint NOT NULL,
  PRIMARY KEY (publication_id, channel, address_hash)
);

-- Calls nobody knows the end of, and how far the asking is.
CREATE TABLE doubts (
  publication_id uuid NOT NULL,
  call_id        uuid NOT NULL,
  channel        channel NOT NULL,
  provider       text NOT NULL,
  call_ended_at  timestamptz NOT NULL,
  deadline       timestamptz NOT NULL, -- counts from the call's end; extended, never shortened
  look_at        timestamptz NOT NULL, -- the next look-up
  looks          integer NOT NULL DEFAULT 0,
  last_look      text,
  PRIMARY KEY (publication_id, call_id),
  CONSTRAINT doubt_deadline_follows_the_call CHECK (deadline >= call_ended_at)
);

-- What Temporal still has to be told. A row goes when Temporal has it.
CREATE TABLE outbox (
  outbox_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  publication_id uuid NOT NULL,
  kind           text NOT NULL,
  created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
  leased_until   timestamptz,
  CONSTRAINT outbox_kind_is_known CHECK (kind IN ('start', 'wake'))
);

-- +goose StatementBegin
CREATE FUNCTION keep_books(delta_publication uuid, delta_channel channel, delta_batch integer,
  sending bigint, in_doubt bigint, sent bigint, delivered bigint, failed bigint, skipped bigint, dead bigint)
RETURNS void LANGUAGE sql AS $$
  UPDATE batches b SET sending = b.sending + $4, in_doubt = b.in_doubt + $5, sent = b.sent + $6,
    delivered = b.delivered + $7, failed = b.failed + $8, skipped = b.skipped + $9, dead = b.dead + $10
  WHERE b.publication_id = $1 AND b.channel = $2 AND b.n = $3
$$;
-- +goose StatementEnd

-- The books follow every change of a delivery, in the transaction that makes
-- it, whichever statement that is: totals that disagree with the rows cannot be
-- written. Statement triggers, because a chunk of 1,000 rows then costs one
-- addition and not a thousand.
-- +goose StatementBegin
CREATE FUNCTION deliveries_inserted() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE d record;
BEGIN
  FOR d IN
    SELECT publication_id, channel, batch,
      count(*) FILTER (WHERE state = 'sending') AS sending,
      count(*) FILTER (WHERE state = 'in_doubt') AS in_doubt,
      count(*) FILTER (WHERE state = 'sent') AS sent,
      count(*) FILTER (WHERE state = 'delivered') AS delivered,
      count(*) FILTER (WHERE state = 'failed') AS failed,
      count(*) FILTER (WHERE state = 'skipped') AS skipped,
      count(*) FILTER (WHERE state = 'dead') AS dead,
      count(*) FILTER (WHERE state = 'pending') AS pending
    FROM new_rows GROUP BY publication_id, channel, batch ORDER BY publication_id, channel, batch
  LOOP
    PERFORM keep_books(d.publication_id, d.channel, d.batch, d.sending, d.in_doubt, d.sent, d.delivered, d.failed, d.skipped, d.dead);
    IF d.skipped + d.failed + d.dead > 0 THEN
      INSERT INTO batch_reasons AS r (publication_id, channel, n, state, reason, count)
      SELECT d.publication_id, d.channel, d.batch, state, COALESCE(reason, code), count(*) FROM new_rows
      WHERE publication_id = d.publication_id AND channel = d.channel AND batch = d.batch AND state IN ('skipped', 'failed', 'dead')
      GROUP BY state, COALESCE(reason, code)
      ON CONFLICT (publication_id, channel, n, state, reason) DO UPDATE SET count = r.count + excluded.count;
    END IF;
    IF d.pending + d.in_doubt + d.failed + d.dead > 0 THEN
      INSERT INTO attention (publication_id, channel, state, subscriber_number, batch, due_at)
      SELECT publication_id, channel, state, subscriber_number, batch, due_at FROM new_rows
      WHERE publication_id = d.publication_id AND channel = d.channel AND batch = d.batch AND state IN ('pending', 'in_doubt', 'failed', 'dead');
    END IF;
  END LOOP;
  RETURN NULL;
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION deliveries_updated() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  d record;
  attention_moves boolean := false;
BEGIN
  FOR d IN
    SELECT publication_id, channel, batch,
      COALESCE(sum(delta) FILTER (WHERE state = 'sending'), 0)::bigint AS sending,
      COALESCE(sum(delta) FILTER (WHERE state = 'in_doubt'), 0)::bigint AS in_doubt,
      COALESCE(sum(delta) FILTER (WHERE state = 'sent'), 0)::bigint AS sent,
      COALESCE(sum(delta) FILTER (WHERE state = 'delivered'), 0)::bigint AS delivered,
      COALESCE(sum(delta) FILTER (WHERE state = 'failed'), 0)::bigint AS failed,
      COALESCE(sum(delta) FILTER (WHERE state = 'skipped'), 0)::bigint AS skipped,
      COALESCE(sum(delta) FILTER (WHERE state = 'dead'), 0)::bigint AS dead,
      bool_or(state IN ('skipped', 'failed', 'dead')) AS has_reasons,
      bool_or(state IN ('pending', 'in_doubt', 'failed', 'dead')) AS has_attention
    FROM (SELECT publication_id, channel, batch, state, 1 AS delta FROM new_rows
          UNION ALL SELECT publication_id, channel, batch, state, -1 FROM old_rows) moves
    GROUP BY publication_id, channel, batch ORDER BY publication_id, channel, batch
  LOOP
    PERFORM keep_books(d.publication_id, d.channel, d.batch, d.sending, d.in_doubt, d.sent, d.delivered, d.failed, d.skipped, d.dead);
    IF d.has_reasons THEN
      INSERT INTO batch_reasons AS r (publication_id, channel, n, state, reason, count)
      SELECT d.publication_id, d.channel, d.batch, state, reason, sum(delta) FROM (
        SELECT state, COALESCE(reason, code) AS reason, 1 AS delta FROM new_rows
        WHERE publication_id = d.publication_id AND channel = d.channel AND batch = d.batch
        UNION ALL SELECT state, COALESCE(reason, code), -1 FROM old_rows
        WHERE publication_id = d.publication_id AND channel = d.channel AND batch = d.batch) moves
      WHERE state IN ('skipped', 'failed', 'dead') GROUP BY state, reason HAVING sum(delta) > 0
      ON CONFLICT (publication_id, channel, n, state, reason) DO UPDATE SET count = r.count + excluded.count;
      UPDATE batch_reasons r SET count = r.count - gone.count FROM (
        SELECT state, reason, -sum(delta) AS count FROM (
          SELECT state, COALESCE(reason, code) AS reason, 1 AS delta FROM new_rows
          WHERE publication_id = d.publication_id AND channel = d.channel AND batch = d.batch
          UNION ALL SELECT state, COALESCE(reason, code), -1 FROM old_rows
          WHERE publication_id = d.publication_id AND channel = d.channel AND batch = d.batch) moves
        WHERE state IN ('skipped', 'failed', 'dead') GROUP BY state, reason HAVING sum(delta) < 0) gone
      WHERE r.publication_id = d.publication_id AND r.channel = d.channel AND r.n = d.batch AND r.state = gone.state AND r.reason = gone.reason;
    END IF;
    attention_moves := attention_moves OR d.has_attention;
  END LOOP;
  IF attention_moves THEN
    -- All that go before any that come, because a row may change its batch. By a
    -- range of the primary key and a hash table (IN behind IS TRUE): joined with the old
    -- rows, the plan that is kept may read all of attention every time.
    FOR d IN
      SELECT publication_id, channel, state, min(subscriber_number) AS first, max(subscriber_number) AS last
      FROM old_rows WHERE state IN ('pending', 'in_doubt', 'failed', 'dead') GROUP BY publication_id, channel, state
    LOOP
      DELETE FROM attention a
      WHERE a.publication_id = d.publication_id AND a.channel = d.channel AND a.state = d.state AND a.subscriber_number BETWEEN d.first AND d.last
        AND (a.subscriber_number IN (SELECT o.subscriber_number FROM old_rows o
          WHERE o.publication_id = d.publication_id AND o.channel = d.channel AND o.state = d.state)) IS TRUE;
    END LOOP;
    INSERT INTO attention (publication_id, channel, state, subscriber_number, batch, due_at)
    SELECT publication_id, channel, state, subscriber_number, batch, due_at FROM new_rows
    WHERE state IN ('pending', 'in_doubt', 'failed', 'dead');
  END IF;
  RETURN NULL;
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION deliveries_wrong_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'delivery %.%.% cannot go from % to %', OLD.publication_id, OLD.channel, OLD.subscriber_number, OLD.state, NEW.state
    USING ERRCODE = 'check_violation', CONSTRAINT = 'delivery_moves_as_the_state_machine_says';
END $$;
-- +goose StatementEnd

CREATE TRIGGER keep_books_on_insert AFTER INSERT ON deliveries
  REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION deliveries_inserted();
CREATE TRIGGER keep_books_on_update AFTER UPDATE ON deliveries
  REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION deliveries_updated();
-- The moves of the state machine; docs/architecture.md draws them. AFTER, because
-- a BEFORE trigger locks every row once more before it is updated.
CREATE TRIGGER state_machine AFTER UPDATE ON deliveries FOR EACH ROW
  WHEN (OLD.state <> NEW.state AND NOT (
       (OLD.state = 'sending'   AND NEW.state IN ('sent', 'pending', 'in_doubt', 'failed', 'delivered', 'dead'))
    OR (OLD.state = 'pending'   AND NEW.state IN ('sending', 'skipped', 'sent', 'delivered', 'dead'))
    OR (OLD.state = 'in_doubt'  AND NEW.state IN ('sent', 'delivered', 'failed', 'pending', 'dead'))
    OR (OLD.state = 'sent'      AND NEW.state IN ('delivered', 'failed'))
    OR (OLD.state = 'delivered' AND NEW.state = 'failed')
    OR (OLD.state = 'dead'      AND NEW.state IN ('pending', 'sent', 'delivered'))))
  EXECUTE FUNCTION deliveries_wrong_move();

CREATE TRIGGER stays BEFORE DELETE ON deliveries FOR EACH ROW
  EXECUTE FUNCTION stays('a_delivery_is_never_deleted', 'a delivery is never deleted: its partition is dropped when all of it is out of retention');
CREATE TRIGGER stays_whole BEFORE TRUNCATE ON deliveries FOR EACH STATEMENT
  EXECUTE FUNCTION stays('a_delivery_is_never_deleted', 'deliveries are never truncated');

-- Partitions are made ahead of time, and none is the default: a delivery that
-- has no partition is an error to be seen, not a row that hides. They are made
-- apart and then attached: CREATE TABLE ... PARTITION OF would wait for every
-- reader of the parent, and every claim would wait behind it.
-- +goose StatementBegin
CREATE FUNCTION make_partitions(months_ahead integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  made integer := 0;
  start_of timestamptz;
  next_start timestamptz;
  parent text;
  part text;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('fanfare partitions', 0));
  FOR m IN 0..months_ahead LOOP
    start_of := (date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC') + make_interval(months => m)) AT TIME ZONE 'UTC';
    next_start := (date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC') + make_interval(months => m + 1)) AT TIME ZONE 'UTC';
    FOREACH parent IN ARRAY ARRAY['deliveries', 'calls', 'attempts'] LOOP
      part := parent || to_char(start_of AT TIME ZONE 'UTC', '"_"YYYY"_"MM');
      IF to_regclass(part) IS NULL THEN
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)%s', part, parent,
          CASE parent WHEN 'deliveries' THEN ' WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05)' ELSE '' END);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, part,
          uuid_v7_floor(start_of), uuid_v7_floor(next_start));
        made := made + 1;
      END IF;
    END LOOP;
  END LOOP;
  RETURN made;
END $$;
-- +goose StatementEnd
SELECT make_partitions(2);

-- +goose Down
DROP TABLE outbox;
DROP TABLE doubts;
DROP TABLE shared_addresses;
DROP TABLE attention;
DROP TABLE attempts;
DROP TABLE deliveries;
DROP TABLE calls;
DROP TABLE batch_reasons;
DROP TABLE batches;
DROP TABLE idempotency_keys;
DROP TABLE publications;
DROP FUNCTION make_partitions(integer);
DROP FUNCTION deliveries_wrong_move();
DROP FUNCTION deliveries_updated();
DROP FUNCTION deliveries_inserted();
DROP FUNCTION keep_books(uuid, channel, integer, bigint, bigint, bigint, bigint, bigint, bigint, bigint);
DROP FUNCTION uuid_v7_floor(timestamptz);
DROP FUNCTION uuid_v7(timestamptz);
DROP TYPE publication_state;
DROP TYPE outcome;
DROP TYPE delivery_state;
DROP TYPE channel;
