-- +goose Up

-- In the order in which they mean more and more, which is the order of events of one moment.
CREATE TYPE event_type AS ENUM ('processed', 'deferred', 'delivered', 'opened', 'clicked', 'unsubscribed', 'complained', 'dropped', 'bounced');

-- What providers' webhooks bring, until it is applied. Nothing is looked up and
-- nothing compared when it comes: a webhook is one INSERT, and answered at once.
CREATE TABLE event_inbox (
  event_inbox_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  provider          text NOT NULL,
  type              event_type NOT NULL,
  at                timestamptz NOT NULL,
  received_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
  digest            bytea NOT NULL, -- of all that it says
  publication_id    uuid, -- null: it names no delivery of ours
  channel           channel,
  subscriber_number bigint,
  call_id           uuid,
  code              text,
  permanent         boolean NOT NULL,
  provider_id       text,
  address_hash      bytea,
  CONSTRAINT inbox_event_names_a_whole_delivery_or_none CHECK (num_nulls(publication_id, channel, subscriber_number) IN (0, 3)),
  CONSTRAINT inbox_event_digest_is_a_sha256 CHECK (octet_length(digest) = 32),
  CONSTRAINT inbox_event_codes_are_short CHECK (octet_length(code) <= 200 AND octet_length(provider_id) <= 200)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000); -- all rows go as fast as they come

-- What providers reported about our deliveries, once each, whatever ids it came under.
CREATE TABLE events (
  publication_id    uuid NOT NULL,
  subscriber_number bigint NOT NULL,
  channel           channel NOT NULL,
  type              event_type NOT NULL,
  at                timestamptz NOT NULL,
  received_at       timestamptz NOT NULL,
  call_id           uuid, -- as the event says
  digest            bytea NOT NULL,
  provider          text NOT NULL,
  code              text,
  PRIMARY KEY (publication_id, subscriber_number, channel, digest),
  CONSTRAINT event_digest_is_a_sha256 CHECK (octet_length(digest) = 32),
  CONSTRAINT event_code_is_short CHECK (octet_length(code) <= 200)
) PARTITION BY RANGE (publication_id);

-- Events that are about no delivery of ours. Kept, because their number says
-- that something else sends in our name, or that something was lost here.
CREATE TABLE stray_events (
  digest      bytea PRIMARY KEY,
  provider    text NOT NULL,
  type        event_type NOT NULL,
  at          timestamptz NOT NULL,
  received_at timestamptz NOT NULL,
  why         text NOT NULL,
  CONSTRAINT stray_event_digest_is_a_sha256 CHECK (octet_length(digest) = 32),
  CONSTRAINT stray_event_names_no_delivery_or_an_unknown_one CHECK (why IN ('names no delivery', 'names an unknown delivery'))
);

-- The same, for events too: a delivery that has a partition has one for its events.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION make_partitions(months_ahead integer) RETURNS integer LANGUAGE plpgsql AS $$
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
    FOREACH parent IN ARRAY ARRAY['deliveries', 'calls', 'attempts', 'events'] LOOP
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
-- +goose StatementBegin
DO $$
DECLARE part record;
BEGIN
  FOR part IN
    SELECT replace(c.relname, 'deliveries', 'events') AS name, pg_get_expr(c.relpartbound, c.oid) AS bounds
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'deliveries'::regclass
  LOOP
    EXECUTE format('CREATE TABLE %I PARTITION OF events %s', part.name, part.bounds);
  END LOOP;
END $$;
-- +goose StatementEnd
SELECT make_partitions(2);

-- +goose Down
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION make_partitions(months_ahead integer) RETURNS integer LANGUAGE plpgsql AS $$
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
DROP TABLE stray_events;
DROP TABLE events;
DROP TABLE event_inbox;
DROP TYPE event_type;
