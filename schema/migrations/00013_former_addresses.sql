-- +goose Up

-- Finds the bounces of whoever is erased, also from addresses that they had before.
CREATE INDEX soft_bounces_by_subscriber ON soft_bounces (subscriber_number);
-- Whose turn it was is forgotten when a publication finishes.
DELETE FROM shared_addresses k USING publications p WHERE p.publication_id = k.publication_id AND p.finished_at IS NOT NULL;

-- +goose Down
DROP INDEX soft_bounces_by_subscriber;
