-- +goose Up

-- Phone numbers as email addresses: compared by hash, and known to be shared when they are.
ALTER TABLE subscribers ADD COLUMN phone_hash bytea GENERATED ALWAYS AS (address_hash(phone)) STORED;
ALTER TABLE subscribers ADD COLUMN phone_shared boolean NOT NULL DEFAULT false;
CREATE INDEX subscribers_by_phone ON subscribers (phone_hash) WHERE phone_hash IS NOT NULL;
UPDATE subscribers s SET phone_shared = true
WHERE s.phone_hash IN (SELECT phone_hash FROM subscribers WHERE phone_hash IS NOT NULL GROUP BY phone_hash HAVING count(*) > 1);

-- A device belongs to whoever registered it last: who signs in on another's phone
-- must not go on getting what is meant for the other.
CREATE TABLE devices (
  token_hash        bytea PRIMARY KEY,
  subscriber_number bigint NOT NULL REFERENCES subscribers,
  token             text NOT NULL,
  platform          text,
  created_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT device_hash_is_that_of_its_token CHECK (token_hash = address_hash(token)),
  CONSTRAINT device_token_is_1_to_4096_bytes CHECK (octet_length(token) BETWEEN 1 AND 4096)
);
CREATE INDEX devices_by_subscriber ON devices (subscriber_number);
INSERT INTO devices (token_hash, subscriber_number, token, platform)
SELECT DISTINCT ON (address_hash(d.token)) address_hash(d.token), s.subscriber_number, d.token, NULLIF(d.platform, '')
FROM subscribers s CROSS JOIN LATERAL jsonb_to_recordset(s.devices) AS d (token text, platform text)
WHERE d.token <> '' ORDER BY address_hash(d.token), s.updated_at DESC;
ALTER TABLE subscribers DROP CONSTRAINT an_erased_subscriber_is_empty;
ALTER TABLE subscribers DROP COLUMN devices;
ALTER TABLE subscribers ADD CONSTRAINT an_erased_subscriber_is_empty CHECK (
  (erased_at IS NULL) = (external_id IS NOT NULL)
  AND (erased_at IS NULL OR (email, phone, locale, time_zone, attributes) IS NOT DISTINCT FROM
       (NULL::text, NULL::text, NULL::text, NULL::text, NULL::jsonb)));

-- What became of each device of a push.
ALTER TABLE calls ADD COLUMN devices jsonb;
-- Whether a message that a provider shows belongs to a call of ours. SMS only: their
-- calls are looked up by number, and the provider keeps no id of ours.
CREATE INDEX calls_by_message ON calls (provider_id) WHERE channel = 'sms';

-- +goose Down
DROP INDEX calls_by_message;
ALTER TABLE calls DROP COLUMN devices;
ALTER TABLE subscribers DROP CONSTRAINT an_erased_subscriber_is_empty;
ALTER TABLE subscribers ADD COLUMN devices jsonb;
UPDATE subscribers s SET devices = d.devices FROM (
  SELECT subscriber_number, jsonb_agg(jsonb_strip_nulls(jsonb_build_object('token', token, 'platform', platform)) ORDER BY token_hash) AS devices
  FROM devices GROUP BY subscriber_number) d WHERE d.subscriber_number = s.subscriber_number;
ALTER TABLE subscribers ADD CONSTRAINT an_erased_subscriber_is_empty CHECK (
  (erased_at IS NULL) = (external_id IS NOT NULL)
  AND (erased_at IS NULL OR (email, phone, devices, locale, time_zone, attributes) IS NOT DISTINCT FROM
       (NULL::text, NULL::text, NULL::jsonb, NULL::text, NULL::text, NULL::jsonb)));
DROP TABLE devices;
DROP INDEX subscribers_by_phone;
ALTER TABLE subscribers DROP COLUMN phone_shared;
ALTER TABLE subscribers DROP COLUMN phone_hash;
