-- +goose Up

-- What somebody is subscribed to: asked for by whoever is erased, and for the
-- preferences of each who looks at theirs.
CREATE INDEX open_subscriptions_by_subscriber ON subscriptions (subscriber_number) WHERE ended_cut IS NULL;
-- Where the hash of an address still stands that nobody has any more.
CREATE INDEX shared_addresses_by_address ON shared_addresses (address_hash);

-- +goose Down
DROP INDEX shared_addresses_by_address;
DROP INDEX open_subscriptions_by_subscriber;
