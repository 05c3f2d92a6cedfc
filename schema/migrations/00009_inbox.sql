-- +goose Up

-- One row for each subscriber with an inbox. Who changes an inbox locks it, so that
-- changes of one inbox commit in the order of their numbers: who has seen number n has
-- seen all before it.
CREATE TABLE inboxes (
  subscriber_number bigint PRIMARY KEY REFERENCES subscribers,
  last_change       bigint NOT NULL DEFAULT 0,
  unread            bigint NOT NULL DEFAULT 0,
  CONSTRAINT inbox_counts_are_not_negative CHECK (last_change >= 0 AND unread >= 0)
) WITH (fillfactor = 70);

-- In-app notifications.
CREATE TABLE inbox_items (
  subscriber_number bigint NOT NULL REFERENCES inboxes,
  publication_id    uuid NOT NULL,
  change            bigint NOT NULL, -- of the inbox, that this item was made or changed by last
  title             text NOT NULL,
  body              text NOT NULL,
  url               text NOT NULL,
  created_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
  read_at           timestamptz,
  archived_at       timestamptz,
  PRIMARY KEY (subscriber_number, publication_id)
);
CREATE UNIQUE INDEX an_inbox_changes_in_order ON inbox_items (subscriber_number, change);

-- +goose Down
DROP TABLE inbox_items;
DROP TABLE inboxes;
