-- +goose Up

-- One row for each subscriber who ever got an in-app notification, and for each who was
-- erased. Who changes an inbox locks it first, so that the changes of one inbox commit in
-- the order of their numbers: who has seen number n has seen all before it.
--
-- No foreign keys, here and below: a post would be asked once for each of a thousand
-- readers, subscribers are never deleted, and a post that waited for a subscriber whose
-- erasure waits for the inbox would wait for ever.
CREATE TABLE inboxes (
  subscriber_number bigint PRIMARY KEY,
  last_change       bigint NOT NULL DEFAULT 0,
  unread            bigint NOT NULL DEFAULT 0,
  closed            boolean NOT NULL DEFAULT false, -- its owner was erased: nothing comes in any more
  CONSTRAINT inbox_counts_are_not_negative CHECK (last_change >= 0 AND unread >= 0),
  CONSTRAINT a_closed_inbox_has_nothing_unread CHECK (NOT closed OR unread = 0)
) WITH (fillfactor = 50); -- a post changes every row of a page, and no index covers them

-- What items say: the same for all readers of a publication in one locale. Items only
-- refer to it, which makes a post a third smaller.
CREATE TABLE inbox_messages (
  publication_id uuid NOT NULL,
  locale         text NOT NULL, -- empty when there is one for all
  title          text NOT NULL,
  body           text NOT NULL,
  url            text NOT NULL,
  PRIMARY KEY (publication_id, locale)
);

-- In-app notifications. The number is that of the inbox's change that brought the item, and
-- stays: the order in which they came is the order of the list.
CREATE TABLE inbox_items (
  subscriber_number bigint NOT NULL,
  number            bigint NOT NULL,
  change            bigint NOT NULL, -- the last one of the inbox that was about this item
  created_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
  read_at           timestamptz,
  archived_at       timestamptz,
  publication_id    uuid NOT NULL,
  locale            text NOT NULL,
  PRIMARY KEY (subscriber_number, number),
  CONSTRAINT item_changes_after_it_came CHECK (change >= number AND number > 0),
  CONSTRAINT an_archived_item_is_read CHECK (archived_at IS NULL OR read_at IS NOT NULL)
);
-- What a stream reads. No item shares its last change with another.
CREATE UNIQUE INDEX an_inbox_changes_in_order ON inbox_items (subscriber_number, change);
-- Costs a post nothing.
CREATE INDEX inbox_items_archived ON inbox_items (subscriber_number, number) WHERE archived_at IS NOT NULL;

-- +goose Down
DROP TABLE inbox_items;
DROP TABLE inbox_messages;
DROP TABLE inboxes;
