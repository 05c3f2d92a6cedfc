-- +goose Up

CREATE TYPE breaker_state AS ENUM ('closed', 'open', 'half_open');

-- One row for each provider: whether it may be called, for all workers, and
-- known again after a restart of everything. Written when that changes, never by a
-- call that went as usual.
CREATE TABLE providers (
  provider        text PRIMARY KEY,
  channel         channel NOT NULL,
  state           breaker_state NOT NULL DEFAULT 'closed',
  pinned          boolean NOT NULL DEFAULT false,
  -- Since when calls flow or do not; a failed probe does not begin it anew. Of a closed
  -- breaker it is also the name of the period: what a call of an earlier one came to
  -- opens nothing.
  since           timestamptz NOT NULL DEFAULT clock_timestamp(),
  openings        integer NOT NULL DEFAULT 0, -- in a row, without a close
  probe_at        timestamptz,
  -- When each lease of a probe lapses, which is also the lease's name.
  probes          timestamptz[] NOT NULL DEFAULT '{}',
  successes       integer NOT NULL DEFAULT 0, -- of probes, since it is half open
  account         boolean NOT NULL DEFAULT false,
  reason          text NOT NULL DEFAULT '', -- of the last opening
  throttled_until timestamptz,
  throttled_why   text NOT NULL DEFAULT '',
  CONSTRAINT provider_name_is_1_to_100_plain_characters CHECK (provider ~ '^[a-z0-9._-]+$' AND octet_length(provider) <= 100),
  CONSTRAINT an_open_breaker_has_its_next_probe CHECK ((state = 'open' AND NOT pinned) = (probe_at IS NOT NULL)),
  CONSTRAINT a_pinned_breaker_is_open_or_closed CHECK (NOT (pinned AND state = 'half_open')),
  CONSTRAINT only_a_half_open_breaker_is_probed CHECK (state = 'half_open' OR (cardinality(probes) = 0 AND successes = 0)),
  CONSTRAINT a_breaker_has_at_most_3_probes CHECK (cardinality(probes) <= 3),
  CONSTRAINT a_breaker_counts_its_openings CHECK (openings >= 0 AND (state = 'closed') = (openings = 0)),
  CONSTRAINT a_closed_breaker_blames_no_account CHECK (NOT (account AND state = 'closed')),
  CONSTRAINT provider_sentences_are_short CHECK (octet_length(reason) <= 2000 AND octet_length(throttled_why) <= 2000)
);

-- +goose Down
DROP TABLE providers;
DROP TYPE breaker_state;
