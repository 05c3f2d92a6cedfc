-- +goose Up

-- Whether its reader ended it, by the link in a message. An import must not begin anew
-- what a reader has ended: a list that was exported before would take it back.
ALTER TABLE subscriptions ADD COLUMN ended_by_reader boolean NOT NULL DEFAULT false;
ALTER TABLE subscriptions ADD CONSTRAINT an_open_subscription_was_ended_by_nobody CHECK (ended_cut IS NOT NULL OR NOT ended_by_reader);

-- +goose Down
ALTER TABLE subscriptions DROP COLUMN ended_by_reader;
