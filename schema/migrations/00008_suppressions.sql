-- +goose Up

ALTER TABLE suppressions ADD COLUMN provider text; -- who said so; null: a person
UPDATE suppressions SET reason = 'manual'
WHERE reason NOT IN ('bounced', 'soft_bounces', 'complained', 'unsubscribed', 'stopped', 'invalid', 'dead_token', 'manual');
ALTER TABLE suppressions ADD CONSTRAINT suppression_reason_is_known CHECK (
  reason IN ('bounced', 'soft_bounces', 'complained', 'unsubscribed', 'stopped', 'invalid', 'dead_token', 'manual'));
ALTER TABLE suppressions ADD CONSTRAINT suppression_hash_is_a_sha256 CHECK (octet_length(address_hash) = 32);

-- Deliveries that an address's receiver refused for the time being. Too many of them
-- in a while, and the address is suppressed.
CREATE TABLE soft_bounces (
  channel           channel NOT NULL,
  address_hash      bytea NOT NULL,
  publication_id    uuid NOT NULL,
  subscriber_number bigint NOT NULL,
  at                timestamptz NOT NULL,
  PRIMARY KEY (channel, address_hash, publication_id, subscriber_number)
);

-- +goose Down
DROP TABLE soft_bounces;
ALTER TABLE suppressions DROP CONSTRAINT suppression_hash_is_a_sha256;
ALTER TABLE suppressions DROP CONSTRAINT suppression_reason_is_known;
ALTER TABLE suppressions DROP COLUMN provider;
