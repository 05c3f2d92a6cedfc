-- +goose Up

-- The channels on which a topic sends only to those who asked for it.
ALTER TABLE topics ADD COLUMN off_by_default channel[] NOT NULL DEFAULT '{}';

-- What subscribers said; who said nothing has no row.
CREATE TABLE channel_preferences (
  subscriber_number bigint NOT NULL REFERENCES subscribers,
  channel           channel NOT NULL,
  wanted            boolean NOT NULL,
  PRIMARY KEY (subscriber_number, channel)
);
CREATE TABLE topic_preferences (
  subscriber_number bigint NOT NULL REFERENCES subscribers,
  topic_id          bigint NOT NULL REFERENCES topics,
  channel           channel NOT NULL,
  wanted            boolean NOT NULL,
  PRIMARY KEY (subscriber_number, topic_id, channel)
);

-- Who changed what and when, for whoever has to prove consent.
CREATE TABLE preference_changes (
  preference_change_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  subscriber_number    bigint NOT NULL REFERENCES subscribers,
  topic_id             bigint REFERENCES topics, -- null: the whole channel
  channel              channel NOT NULL,
  was                  boolean, -- null: nothing was said
  became               boolean NOT NULL,
  at                   timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX preference_changes_by_subscriber ON preference_changes (subscriber_number, preference_change_id);

-- +goose Down
DROP TABLE preference_changes;
DROP TABLE topic_preferences;
DROP TABLE channel_preferences;
ALTER TABLE topics DROP COLUMN off_by_default;
