-- +goose Up

-- Membership is decided by cuts, not by clocks: every writer of a topic's
-- subscriptions and every acceptance takes the next number of this sequence
-- while it holds the topic's lock, so "before" and "after" are exact.
CREATE SEQUENCE cuts;

CREATE TABLE topics (
  topic_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  topic      text NOT NULL,
  name       text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT topic_is_taken UNIQUE (topic),
  CONSTRAINT topic_is_1_to_200_plain_characters CHECK (topic ~ '^[A-Za-z0-9._:@-]+$' AND octet_length(topic) <= 200)
);

-- Addresses compare without regard to case, and are kept as a hash where the
-- address itself is not needed (suppressions outlive an erased person).
-- sha256 because publishers choose the addresses: nobody must be able to make
-- two that collide.
-- +goose StatementBegin
CREATE FUNCTION address_hash(address text) RETURNS bytea
  LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
  RETURN sha256(replace(lower(address), '\', '\\')::bytea); -- the cast reads backslashes as escapes
-- +goose StatementEnd

CREATE SEQUENCE subscriber_numbers;

CREATE TABLE subscribers (
  subscriber_number bigint PRIMARY KEY,
  external_id  text COLLATE "C", -- plain ASCII: the fastest order will do
  email        text,
  email_hash   bytea GENERATED ALWAYS AS (address_hash(email)) STORED,
  -- Kept at write time so that a fan-out pays for shared addresses only where
  -- there are some. Once true it stays true: it means "may be shared".
  email_shared boolean NOT NULL DEFAULT false,
  phone        text,
  devices      jsonb,
  locale       text,
  time_zone    text,
  attributes   jsonb,
  created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  erased_at    timestamptz,
  CONSTRAINT subscriber_id_is_taken UNIQUE (external_id),
  CONSTRAINT subscriber_id_is_1_to_200_plain_characters CHECK (external_id ~ '^[A-Za-z0-9._:@-]+$' AND octet_length(external_id) <= 200),
  CONSTRAINT email_is_at_most_254_bytes CHECK (octet_length(email) <= 254),
  CONSTRAINT an_erased_subscriber_is_empty CHECK (
    (erased_at IS NULL) = (external_id IS NOT NULL)
    AND (erased_at IS NULL OR (email, phone, devices, locale, time_zone, attributes) IS NOT DISTINCT FROM
         (NULL::text, NULL::text, NULL::jsonb, NULL::text, NULL::text, NULL::jsonb)))
);
ALTER SEQUENCE subscriber_numbers OWNED BY subscribers.subscriber_number;
-- Finds who else has an address when one is written.
CREATE INDEX subscribers_by_email ON subscribers (email_hash) WHERE email_hash IS NOT NULL;

-- A subscription is an interval of cuts. It is ended and begun anew, never
-- overwritten, so an audience can be read again at any time.
CREATE TABLE subscriptions (
  topic_id          bigint NOT NULL,
  subscriber_number bigint NOT NULL,
  began_cut  bigint NOT NULL,
  ended_cut  bigint,
  began_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  ended_at   timestamptz,
  PRIMARY KEY (topic_id, subscriber_number, began_cut),
  CONSTRAINT a_subscription_ends_after_it_began CHECK (ended_cut > began_cut),
  CONSTRAINT an_ended_subscription_has_its_time CHECK ((ended_cut IS NULL) = (ended_at IS NULL))
);
CREATE UNIQUE INDEX one_open_subscription ON subscriptions (topic_id, subscriber_number) WHERE ended_cut IS NULL;

-- What a foreign key would say, but asked once for all rows of a statement:
-- asked twice for every row it took a quarter of an import. The other half of it
-- is that topics and subscribers are never deleted.
-- +goose StatementBegin
CREATE FUNCTION subscriptions_belong() RETURNS trigger LANGUAGE plpgsql
  SET enable_hashjoin = off SET enable_mergejoin = off -- by index, however many rows there are
AS $$
BEGIN
  IF EXISTS (SELECT FROM (SELECT DISTINCT topic_id FROM new_rows) n LEFT JOIN topics t USING (topic_id) WHERE t.topic_id IS NULL) THEN
    RAISE EXCEPTION 'a subscription names a topic that does not exist'
      USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'a_subscription_has_its_topic';
  END IF;
  IF EXISTS (SELECT FROM new_rows n LEFT JOIN subscribers s USING (subscriber_number) WHERE s.subscriber_number IS NULL) THEN
    RAISE EXCEPTION 'a subscription names a subscriber who does not exist'
      USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'a_subscription_has_its_subscriber';
  END IF;
  RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER belong AFTER INSERT ON subscriptions
  REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION subscriptions_belong();

-- +goose StatementBegin
CREATE FUNCTION stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '%', TG_ARGV[1] USING ERRCODE = 'check_violation', CONSTRAINT = TG_ARGV[0];
END $$;
-- +goose StatementEnd
CREATE TRIGGER stays BEFORE DELETE ON topics FOR EACH ROW
  EXECUTE FUNCTION stays('a_topic_is_never_deleted', 'a topic is never deleted: past publications name it');
CREATE TRIGGER stays BEFORE DELETE ON subscribers FOR EACH ROW
  EXECUTE FUNCTION stays('a_subscriber_is_never_deleted', 'a subscriber is never deleted, but erased: past publications count them');

-- Addresses that must not be used, whoever wants them.
CREATE TABLE suppressions (
  channel      text NOT NULL,
  address_hash bytea NOT NULL,
  reason       text NOT NULL,
  created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (channel, address_hash),
  CONSTRAINT suppression_channel_is_known CHECK (channel IN ('email', 'sms', 'push', 'inapp'))
);

-- +goose Down
DROP TABLE suppressions;
DROP TABLE subscriptions;
DROP FUNCTION subscriptions_belong();
DROP TABLE subscribers;
DROP FUNCTION address_hash(text);
DROP TABLE topics;
DROP FUNCTION stays();
DROP SEQUENCE cuts;
