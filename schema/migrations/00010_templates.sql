-- +goose Up

-- A version never changes and is never deleted: publications are made of it.
CREATE TABLE templates (
  template       text NOT NULL,
  version        integer NOT NULL,
  default_locale text NOT NULL,
  texts          jsonb NOT NULL, -- by channel and locale
  created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (template, version),
  CONSTRAINT template_name_is_1_to_200_plain_characters CHECK (template ~ '^[A-Za-z0-9._:@-]+$' AND octet_length(template) <= 200),
  CONSTRAINT template_versions_count_from_1 CHECK (version >= 1)
);

-- The version that was the latest when the publication was accepted. Its name stands in
-- the content too, as the publisher sent it.
ALTER TABLE publications
  ADD COLUMN template text,
  ADD COLUMN template_version integer,
  ADD CONSTRAINT publication_template_has_its_version CHECK ((template IS NULL) = (template_version IS NULL)),
  ADD CONSTRAINT publication_template_exists FOREIGN KEY (template, template_version) REFERENCES templates;

-- +goose Down
ALTER TABLE publications DROP COLUMN template_version, DROP COLUMN template;
DROP TABLE templates;
