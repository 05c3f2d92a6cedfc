-- +goose Up

-- A workflow run that was reset is not the run that opened the batch last: that
-- is how it knows that dead letters are to be sent again.
ALTER TABLE batches ADD COLUMN reopened_by text;

-- Dead letters that somebody asked to send again, by filter.
CREATE TABLE replays (
  replay_id       uuid PRIMARY KEY DEFAULT uuid_v7(),
  filter          jsonb NOT NULL,
  state           text NOT NULL DEFAULT 'running',
  count           bigint NOT NULL DEFAULT 0, -- fixed when it is accepted
  idempotency_key text,
  created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
  finished_at     timestamptz,
  CONSTRAINT replay_idempotency_key_is_used UNIQUE (idempotency_key),
  CONSTRAINT replay_idempotency_key_is_at_most_200_bytes CHECK (octet_length(idempotency_key) BETWEEN 1 AND 200),
  CONSTRAINT replay_state_is_known CHECK (state IN ('running', 'completed', 'cancelled')),
  CONSTRAINT a_running_replay_is_not_finished CHECK ((state = 'running') = (finished_at IS NULL)),
  CONSTRAINT replay_count_is_not_negative CHECK (count >= 0)
);
-- The sweep reads it every minute.
CREATE INDEX replays_running ON replays (replay_id) WHERE finished_at IS NULL;

-- The deliveries of a replay.
CREATE TABLE replay_deliveries (
  replay_id         uuid NOT NULL REFERENCES replays,
  publication_id    uuid NOT NULL,
  channel           channel NOT NULL,
  batch             integer NOT NULL,
  subscriber_number bigint NOT NULL,
  taken_at          timestamptz, -- null: waits for its turn
  passed            boolean NOT NULL DEFAULT false, -- not dead any more when its turn came, or the replay was cancelled
  PRIMARY KEY (replay_id, publication_id, channel, batch, subscriber_number),
  CONSTRAINT passed_over_when_its_turn_came CHECK (taken_at IS NOT NULL OR NOT passed)
);
-- Two replays that are asked for at once share the dead letters between them.
CREATE UNIQUE INDEX a_dead_letter_waits_for_one_replay ON replay_deliveries (publication_id, channel, subscriber_number) WHERE taken_at IS NULL;

ALTER TABLE outbox ADD COLUMN replay_id uuid;
ALTER TABLE outbox ALTER COLUMN publication_id DROP NOT NULL;
ALTER TABLE outbox DROP CONSTRAINT outbox_kind_is_known;
ALTER TABLE outbox ADD CONSTRAINT outbox_kind_is_known CHECK (kind IN ('start', 'wake', 'replay'));
ALTER TABLE outbox ADD CONSTRAINT outbox_order_is_about_one_thing CHECK (
  (kind = 'replay') = (replay_id IS NOT NULL) AND (kind = 'replay') = (publication_id IS NULL));

-- +goose Down
DELETE FROM outbox WHERE kind = 'replay';
ALTER TABLE outbox DROP CONSTRAINT outbox_order_is_about_one_thing;
ALTER TABLE outbox DROP CONSTRAINT outbox_kind_is_known;
ALTER TABLE outbox ADD CONSTRAINT outbox_kind_is_known CHECK (kind IN ('start', 'wake'));
ALTER TABLE outbox ALTER COLUMN publication_id SET NOT NULL;
ALTER TABLE outbox DROP COLUMN replay_id;
DROP TABLE replay_deliveries;
DROP TABLE replays;
ALTER TABLE batches DROP COLUMN reopened_by;
