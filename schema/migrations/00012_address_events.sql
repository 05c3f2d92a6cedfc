-- +goose Up

-- What providers reported of addresses alone, for as long as they may report it again:
-- that their owners want nothing more, or want it again. Reports come twice and in any
-- order, and the last word counts.
CREATE TABLE address_events (
  digest       bytea PRIMARY KEY,
  channel      channel NOT NULL,
  address_hash bytea NOT NULL,
  leaves       boolean NOT NULL, -- or comes back
  at           timestamptz NOT NULL,
  CONSTRAINT address_event_digest_is_a_sha256 CHECK (octet_length(digest) = 32),
  CONSTRAINT address_event_hash_is_a_sha256 CHECK (octet_length(address_hash) = 32)
);
CREATE INDEX address_events_by_address ON address_events (channel, address_hash);
CREATE INDEX address_events_by_age ON address_events (at);

-- Finds the bounces that count no more.
CREATE INDEX soft_bounces_by_age ON soft_bounces (at);

-- +goose Down
DROP INDEX soft_bounces_by_age;
DROP TABLE address_events;
