package schema_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

// wrong are the states that must not be writable: the constraint that refuses
// each, and a statement that tries. $1 is a publication's id.
var wrong = []struct{ constraint, sql string }{
	{"topic_is_taken", `INSERT INTO topics (topic, name) SELECT 'writer-1', 'again' WHERE $1::uuid IS NOT NULL`},
	{"topic_is_1_to_200_plain_characters", `INSERT INTO topics (topic, name) SELECT 'a b', '' WHERE $1::uuid IS NOT NULL`},
	{"topic_is_1_to_200_plain_characters", `INSERT INTO topics (topic, name) SELECT '', '' WHERE $1::uuid IS NOT NULL`},
	{"topic_is_1_to_200_plain_characters", `INSERT INTO topics (topic, name) SELECT repeat('a', 201), '' WHERE $1::uuid IS NOT NULL`},
	{"subscriber_id_is_taken", `INSERT INTO subscribers (subscriber_number, external_id) SELECT 11, 'reader-1' WHERE $1::uuid IS NOT NULL`},
	{"subscriber_id_is_1_to_200_plain_characters", `INSERT INTO subscribers (subscriber_number, external_id) SELECT 11, 'ñ' WHERE $1::uuid IS NOT NULL`},
	{"subscribers_pkey", `INSERT INTO subscribers (subscriber_number, external_id) SELECT 1, 'reader-11' WHERE $1::uuid IS NOT NULL`},
	{"email_is_at_most_254_bytes", `UPDATE subscribers SET email = repeat('ñ', 127) || 'a' WHERE $1::uuid IS NOT NULL`},
	{"an_erased_subscriber_is_empty", `UPDATE subscribers SET erased_at = now() WHERE $1::uuid IS NOT NULL`},
	{"an_erased_subscriber_is_empty", `UPDATE subscribers SET erased_at = now(), external_id = NULL WHERE $1::uuid IS NOT NULL`},
	{"an_erased_subscriber_is_empty", `UPDATE subscribers SET external_id = NULL WHERE $1::uuid IS NOT NULL`},
	{"a_subscription_has_its_topic", `INSERT INTO subscriptions (topic_id, subscriber_number, began_cut) SELECT 99, 1, 1 WHERE $1::uuid IS NOT NULL`},
	{"a_subscription_has_its_subscriber", `INSERT INTO subscriptions (topic_id, subscriber_number, began_cut) SELECT 1, 99, 1 WHERE $1::uuid IS NOT NULL`},
	{"a_topic_is_never_deleted", `DELETE FROM topics WHERE $1::uuid IS NOT NULL`},
	{"a_subscriber_is_never_deleted", `DELETE FROM subscribers WHERE $1::uuid IS NOT NULL`},
	{"one_open_subscription", `INSERT INTO subscriptions (topic_id, subscriber_number, began_cut) SELECT 1, 1, 99 WHERE $1::uuid IS NOT NULL`},
	{"a_subscription_ends_after_it_began", `UPDATE subscriptions SET ended_cut = began_cut, ended_at = now() WHERE $1::uuid IS NOT NULL`},
	{"an_ended_subscription_has_its_time", `UPDATE subscriptions SET ended_cut = 99 WHERE $1::uuid IS NOT NULL`},
	{"an_ended_subscription_has_its_time", `UPDATE subscriptions SET ended_at = now() WHERE $1::uuid IS NOT NULL`},
	{"an_open_subscription_was_ended_by_nobody", `UPDATE subscriptions SET ended_by_reader = true WHERE $1::uuid IS NOT NULL`},
	{"suppression_reason_is_known", `INSERT INTO suppressions (channel, address_hash, reason) SELECT 'email', address_hash('a'), '' WHERE $1::uuid IS NOT NULL`},
	{"suppression_hash_is_a_sha256", `INSERT INTO suppressions (channel, address_hash, reason) SELECT 'email', '', 'manual' WHERE $1::uuid IS NOT NULL`},
	{"suppression_channel_is_known", `INSERT INTO suppressions (channel, address_hash, reason) SELECT 'pigeon', address_hash('a'), 'manual' WHERE $1::uuid IS NOT NULL`},
	{"address_event_digest_is_a_sha256", `INSERT INTO address_events SELECT '', 'sms', address_hash('a'), true, now() WHERE $1::uuid IS NOT NULL`},
	{"address_event_hash_is_a_sha256", `INSERT INTO address_events SELECT address_hash('a'), 'sms', '', true, now() WHERE $1::uuid IS NOT NULL`},

	{"device_hash_is_that_of_its_token", `INSERT INTO devices (token_hash, subscriber_number, token) SELECT address_hash('a'), 1, 'b' WHERE $1::uuid IS NOT NULL`},
	{"device_token_is_1_to_4096_bytes", `INSERT INTO devices (token_hash, subscriber_number, token) SELECT address_hash(''), 1, '' WHERE $1::uuid IS NOT NULL`},
	{"device_token_is_1_to_4096_bytes", `INSERT INTO devices (token_hash, subscriber_number, token) SELECT address_hash(t), 1, t FROM repeat('a', 4097) t WHERE $1::uuid IS NOT NULL`},
	{"inbox_counts_are_not_negative", `INSERT INTO inboxes (subscriber_number, unread) SELECT 1, -1 WHERE $1::uuid IS NOT NULL`},
	{"inbox_counts_are_not_negative", `INSERT INTO inboxes (subscriber_number, last_change) SELECT 1, -1 WHERE $1::uuid IS NOT NULL`},
	{"a_closed_inbox_has_nothing_unread", `INSERT INTO inboxes (subscriber_number, unread, closed) SELECT 1, 1, true WHERE $1::uuid IS NOT NULL`},
	{"item_changes_after_it_came", inboxItem(`2, 1, NULL, NULL`)},
	{"item_changes_after_it_came", inboxItem(`0, 1, NULL, NULL`)},
	{"an_archived_item_is_read", inboxItem(`1, 1, NULL, now()`)},
	{"an_inbox_changes_in_order", inboxItem(`n, 2, NULL, NULL`) + ` FROM generate_series(1, 2) n`},

	{"template_name_is_1_to_200_plain_characters", `INSERT INTO templates SELECT 'a b', 1, 'en', '{}' WHERE $1::uuid IS NOT NULL`},
	{"template_name_is_1_to_200_plain_characters", `INSERT INTO templates SELECT '', 1, 'en', '{}' WHERE $1::uuid IS NOT NULL`},
	{"template_name_is_1_to_200_plain_characters", `INSERT INTO templates SELECT repeat('a', 201), 1, 'en', '{}' WHERE $1::uuid IS NOT NULL`},
	{"template_versions_count_from_1", `INSERT INTO templates SELECT 'a', 0, 'en', '{}' WHERE $1::uuid IS NOT NULL`},
	{"publication_template_has_its_version", `UPDATE publications SET template = 'a' WHERE publication_id = $1`},
	{"publication_template_has_its_version", `UPDATE publications SET template_version = 1 WHERE publication_id = $1`},
	{"publication_template_exists", `UPDATE publications SET template = 'a', template_version = 1 WHERE publication_id = $1`},

	{"publication_key_is_taken", `INSERT INTO publications SELECT (jsonb_populate_record(p, jsonb_build_object('publication_id', uuid_v7()))).* FROM publications p WHERE publication_id = $1`},
	{"publication_key_is_1_to_200_plain_characters", `UPDATE publications SET key = 'a/b' WHERE publication_id = $1`},
	{"publication_class_is_known", `UPDATE publications SET class = 'urgent' WHERE publication_id = $1`},
	{"publication_has_a_channel", `UPDATE publications SET channels = '{}' WHERE publication_id = $1`},
	{"publication_audience_is_not_negative", `UPDATE publications SET audience = -1 WHERE publication_id = $1`},
	{"publication_expires_after_it_starts", `UPDATE publications SET expires_at = accepted_at WHERE publication_id = $1`},
	{"publication_expires_after_it_starts", `UPDATE publications SET scheduled_at = expires_at WHERE publication_id = $1`},
	{"a_paused_publication_knows_where_to_resume", `UPDATE publications SET state = 'paused' WHERE publication_id = $1`},
	{"a_paused_publication_knows_where_to_resume", `UPDATE publications SET resume_state = 'running' WHERE publication_id = $1`},
	{"an_open_publication_is_not_finished", `UPDATE publications SET finished_at = now() WHERE publication_id = $1`},
	{"a_completed_publication_is_finished", `UPDATE publications SET state = 'completed' WHERE publication_id = $1`},
	{"a_completed_publication_is_finished", `UPDATE publications SET state = 'completed_with_failures' WHERE publication_id = $1`},
	{"a_stopped_publication_has_its_time", `UPDATE publications SET state = 'cancelled' WHERE publication_id = $1`},
	{"a_stopped_publication_has_its_time", `UPDATE publications SET state = 'expired' WHERE publication_id = $1`},
	{"a_stopped_publication_has_its_time", `UPDATE publications SET stopped_at = now() WHERE publication_id = $1`},
	{"idempotency_key_is_at_most_200_bytes", `INSERT INTO idempotency_keys (idempotency_key, fingerprint, publication_id) VALUES (repeat('ñ', 101), '', $1)`},
	{"idempotency_key_is_at_most_200_bytes", `INSERT INTO idempotency_keys (idempotency_key, fingerprint, publication_id) VALUES ('', '', $1)`},

	{"batch_counts_from_1", `UPDATE batches SET n = n - 1 WHERE publication_id = $1`},
	{"batch_range_is_in_order", `UPDATE batches SET first_number = last_number + 1, claimed_through = last_number WHERE publication_id = $1`},
	{"batch_cursor_is_in_its_range", `UPDATE batches SET claimed_through = last_number + 1 WHERE publication_id = $1`},
	{"batch_cursor_is_in_its_range", `UPDATE batches SET claimed_through = first_number - 2 WHERE publication_id = $1`},
	{"batch_totals_are_not_negative", `UPDATE batches SET dead = -1 WHERE publication_id = $1`},
	{"batch_totals_do_not_exceed_intended", `UPDATE batches SET sent = 3, skipped = 3 WHERE publication_id = $1`},
	{"batches_publication_id_fkey", `INSERT INTO batches (publication_id, channel, n, first_number, last_number, claimed_through, intended) SELECT gen_random_uuid(), 'email', 1, 1, 1, 0, 1 WHERE $1::uuid IS NOT NULL`},
	{"batch_reason_count_is_not_negative", `INSERT INTO batch_reasons VALUES ($1, 'email', 1, 'skipped', 'erased', -1)`},
	{"call_times_are_in_order", call(`now(), now(), now() + interval '1 s', NULL, NULL, 1, 2, 2`)},
	{"call_times_are_in_order", call(`now(), now() + interval '1 s', now() + interval '1 s', NULL, NULL, 1, 2, 2`)},
	{"call_has_an_outcome_when_it_ended", call(`now(), now() + interval '1 s', now() + interval '2 s', now(), NULL, 1, 2, 2`)},
	{"call_has_an_outcome_when_it_ended", call(`now(), now() + interval '1 s', now() + interval '2 s', NULL, 'accepted', 1, 2, 2`)},
	{"call_range_is_in_order", call(`now(), now() + interval '1 s', now() + interval '2 s', NULL, NULL, 2, 1, 2`)},
	{"call_range_is_in_order", call(`now(), now() + interval '1 s', now() + interval '2 s', NULL, NULL, 1, 2, 0`)},

	{"delivery_under_way_or_sent_has_a_call", row(`'sending', NULL, NULL, NULL, NULL, 0, 0`)},
	{"delivery_under_way_or_sent_has_a_call", row(`'dead', NULL, NULL, 'doubt_held', NULL, 0, 0`)},
	{"waiting_delivery_has_a_time", row(`'pending', NULL, NULL, NULL, NULL, 0, 0`)},
	{"waiting_delivery_has_a_time", row(`'in_doubt', gen_random_uuid(), NULL, NULL, NULL, 0, 0`)},
	{"waiting_delivery_has_a_time", row(`'sent', gen_random_uuid(), now(), NULL, NULL, 0, 0`)},
	{"skipped_or_dead_delivery_has_a_reason", row(`'skipped', NULL, NULL, NULL, NULL, 0, 0`)},
	{"skipped_or_dead_delivery_has_a_reason", row(`'dead', gen_random_uuid(), NULL, NULL, 'c', 0, 0`)},
	{"skipped_or_dead_delivery_has_a_reason", row(`'sent', gen_random_uuid(), NULL, 'why', NULL, 0, 0`)},
	{"failed_delivery_has_a_code", row(`'failed', gen_random_uuid(), NULL, NULL, NULL, 0, 0`)},
	{"delivery_is_resent_at_most_once", row(`'sent', gen_random_uuid(), NULL, NULL, NULL, 0, 2`)},
	{"delivery_is_resent_at_most_once", row(`'sent', gen_random_uuid(), NULL, NULL, NULL, 0, -1`)},
	{"delivery_attempts_are_not_negative", row(`'sent', gen_random_uuid(), NULL, NULL, NULL, -1, 0`)},
	{"attention_is_for_what_waits_or_went_wrong", `INSERT INTO attention (publication_id, channel, state, subscriber_number, batch) VALUES ($1, 'email', 'sent', 1, 1)`},
	{"doubt_deadline_follows_the_call", `INSERT INTO doubts (publication_id, call_id, channel, provider, call_ended_at, deadline, look_at) VALUES ($1, $1, 'email', 's', now(), now() - interval '1 s', now())`},
	{"inbox_event_names_a_whole_delivery_or_none", inboxEvent(`sha256(''), 'email', NULL, NULL, NULL`)},
	{"inbox_event_names_a_whole_delivery_or_none", inboxEvent(`sha256(''), 'email', 1, NULL, NULL`, `NULL`)},
	{"inbox_event_digest_is_a_sha256", inboxEvent(`'', 'email', 1, NULL, NULL`)},
	{"inbox_event_codes_are_short", inboxEvent(`sha256(''), 'email', 1, repeat('ñ', 101), NULL`)},
	{"inbox_event_codes_are_short", inboxEvent(`sha256(''), 'email', 1, NULL, repeat('a', 201)`)},
	{"event_digest_is_a_sha256", `INSERT INTO events SELECT $1, 1, 'email', 'opened', now(), now(), NULL, '', 's'`},
	{"event_code_is_short", `INSERT INTO events SELECT $1, 1, 'email', 'bounced', now(), now(), NULL, sha256(''), 's', repeat('a', 201)`},
	{"stray_event_digest_is_a_sha256", `INSERT INTO stray_events SELECT '', 's', 'opened', now(), now(), 'names no delivery' WHERE $1::uuid IS NOT NULL`},
	{"stray_event_names_no_delivery_or_an_unknown_one", `INSERT INTO stray_events SELECT sha256(''), 's', 'opened', now(), now(), '' WHERE $1::uuid IS NOT NULL`},
	{"outbox_kind_is_known", `INSERT INTO outbox (publication_id, kind) VALUES ($1, 'stop')`},
	{"outbox_order_is_about_one_thing", `INSERT INTO outbox (publication_id, kind) VALUES ($1, 'replay')`},
	{"outbox_order_is_about_one_thing", `INSERT INTO outbox (replay_id, kind) VALUES ($1, 'wake')`},
	{"outbox_order_is_about_one_thing", `INSERT INTO outbox (replay_id, publication_id, kind) VALUES ($1, $1, 'replay')`},
	{"replay_state_is_known", replay(`'paused', now(), 0, NULL`)},
	{"a_running_replay_is_not_finished", replay(`'running', now(), 0, NULL`)},
	{"a_running_replay_is_not_finished", replay(`'completed', NULL, 0, NULL`)},
	{"replay_count_is_not_negative", replay(`'running', NULL, -1, NULL`)},
	{"replay_idempotency_key_is_at_most_200_bytes", replay(`'running', NULL, 0, ''`)},
	{"replay_idempotency_key_is_at_most_200_bytes", replay(`'running', NULL, 0, repeat('ñ', 101)`)},
	{"passed_over_when_its_turn_came", `INSERT INTO replay_deliveries (replay_id, publication_id, channel, batch, subscriber_number, passed) SELECT $1, $1, 'email', 1, 1, true`},

	{"provider_name_is_1_to_100_plain_characters", provider(`'send grid', 'closed', false, NULL, '{}', 0, 0, false, ''`)},
	{"provider_name_is_1_to_100_plain_characters", provider(`'', 'closed', false, NULL, '{}', 0, 0, false, ''`)},
	{"provider_name_is_1_to_100_plain_characters", provider(`repeat('a', 101), 'closed', false, NULL, '{}', 0, 0, false, ''`)},
	{"an_open_breaker_has_its_next_probe", provider(`'p', 'open', false, NULL, '{}', 0, 1, false, ''`)},
	{"an_open_breaker_has_its_next_probe", provider(`'p', 'open', true, now(), '{}', 0, 1, false, ''`)},
	{"an_open_breaker_has_its_next_probe", provider(`'p', 'closed', false, now(), '{}', 0, 0, false, ''`)},
	{"an_open_breaker_has_its_next_probe", provider(`'p', 'half_open', false, now(), '{}', 0, 1, false, ''`)},
	{"a_pinned_breaker_is_open_or_closed", provider(`'p', 'half_open', true, NULL, '{}', 0, 1, false, ''`)},
	{"only_a_half_open_breaker_is_probed", provider(`'p', 'open', false, now(), ARRAY[now()], 0, 1, false, ''`)},
	{"only_a_half_open_breaker_is_probed", provider(`'p', 'closed', false, NULL, '{}', 1, 0, false, ''`)},
	{"a_breaker_has_at_most_3_probes", provider(`'p', 'half_open', false, NULL, ARRAY[now(), now(), now(), now()], 0, 1, false, ''`)},
	{"a_breaker_counts_its_openings", provider(`'p', 'closed', false, NULL, '{}', 0, 1, false, ''`)},
	{"a_breaker_counts_its_openings", provider(`'p', 'half_open', false, NULL, '{}', 0, 0, false, ''`)},
	{"a_breaker_counts_its_openings", provider(`'p', 'half_open', false, NULL, '{}', 0, -1, false, ''`)},
	{"a_closed_breaker_blames_no_account", provider(`'p', 'closed', false, NULL, '{}', 0, 0, true, ''`)},
	{"provider_sentences_are_short", provider(`'p', 'closed', false, NULL, '{}', 0, 0, false, repeat('a', 2001)`)},
}

// inboxItem writes an item with number, change, read_at, archived_at.
func inboxItem(values string) string {
	return `INSERT INTO inbox_items (publication_id, subscriber_number, locale, number, change, read_at, archived_at) SELECT $1::uuid, 1, '', ` + values
}

// call writes a call with claimed_at, begin_by, call_until, ended_at, outcome, first_number, last_number, size.
func call(values string) string {
	return `INSERT INTO calls (publication_id, call_id, channel, batch, provider, claimed_at, begin_by, call_until, ended_at, outcome, first_number, last_number, size)
		SELECT $1, gen_random_uuid(), 'email', 1, 's', ` + values
}

// inboxEvent writes an event with digest, channel, subscriber_number, code,
// provider_id and, when it is not the publication's, publication_id.
func inboxEvent(values string, publication ...string) string {
	return `INSERT INTO event_inbox (provider, type, at, permanent, digest, channel, subscriber_number, code, provider_id, publication_id)
		SELECT 's', 'bounced', now(), false, ` + values + `, ` + append(publication, `$1::uuid`)[0] + ` WHERE $1::uuid IS NOT NULL`
}

// row writes a delivery with state, call_id, due_at, reason, code, attempts, resends.
func row(values string) string {
	return `INSERT INTO deliveries (publication_id, subscriber_number, channel, batch, state, call_id, due_at, reason, code, attempts, resends)
		SELECT $1, 1, 'email', 1, ` + values
}

// provider writes a provider with provider, state, pinned, probe_at, probes, successes, openings, account, reason.
func provider(values string) string {
	return `INSERT INTO providers (channel, provider, state, pinned, probe_at, probes, successes, openings, account, reason)
		SELECT 'email', ` + values + ` WHERE $1::uuid IS NOT NULL`
}

// replay writes a replay with state, finished_at, count, idempotency_key.
func replay(values string) string {
	return `INSERT INTO replays (filter, state, finished_at, count, idempotency_key) SELECT '{}', ` + values + ` WHERE $1::uuid IS NOT NULL`
}

func TestEveryConstraintRefusesItsWrongStateByName(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	id := db.publication()
	tried := map[string]bool{}
	for _, w := range wrong {
		require.Equal(t, w.constraint, db.refused(w.sql, id), w.sql)
		tried[w.constraint] = true
	}

	for _, name := range all[string](db, `
		SELECT DISTINCT conname FROM pg_constraint c JOIN pg_class r ON r.oid = c.conrelid
		WHERE r.relnamespace = 'public'::regnamespace AND r.relname NOT LIKE 'goose%' AND contype = 'c'`) {
		require.True(t, tried[name], "no wrong state is tried against %s", name)
	}
}

func TestADeliveryHasOneRowOnAChannel(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	id := db.publication()
	db.exec(delivery, id, 1, "email", "sending")
	db.exec(delivery, id, 1, "push", "sending")
	require.Contains(t, db.refused(delivery, id, 1, "email", "sending"), "_pkey")
}

func TestAddressesCompareWithoutRegardToCase(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"Ana@Mail.Example", "ana@mail.example", true},
		{"ÑANDÚ@mail.example", "ñandú@mail.example", true},
		{"ana@mail.example", "ana@mail.example ", false},
		{`a\b@mail.example`, `A\B@mail.example`, true},
		{`a\b@mail.example`, `a\\b@mail.example`, false},
		{`\x41@mail.example`, `A@mail.example`, false},
		{`\101@mail.example`, `A@mail.example`, false},
		{`\`, `\\`, false},
		{`\x`, `\X`, true},
	} {
		require.Equal(t, c.same, one[bool](db, `SELECT address_hash($1) = address_hash($2)`, c.a, c.b), "%s and %s", c.a, c.b)
	}
	require.Len(t, one[[]byte](db, `SELECT address_hash('a@mail.example')`), 32)
	require.True(t, one[bool](db, `SELECT address_hash(NULL) IS NULL`))

	db.publication()
	require.Empty(t, cmp.Diff([]string{"reader-3"}, all[string](db, `SELECT external_id FROM subscribers WHERE email_hash = address_hash('3@MAIL.example')`)))
}

func TestUUIDsAreVersion7AndOrdered(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	require.Equal(t, 1000, one[int](db, `
		SELECT count(DISTINCT id) FROM (SELECT uuid_v7() AS id FROM generate_series(1, 1000)) x
		WHERE id::text ~ '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$'`))
	require.True(t, one[bool](db, `
		SELECT bool_and(later > earlier) FROM (
		  SELECT uuid_v7(at) AS later, lag(uuid_v7(at)) OVER (ORDER BY at) AS earlier
		  FROM generate_series(timestamptz '2026-01-01', timestamptz '2026-01-01' + interval '1 s', interval '1 ms') at) x
		WHERE earlier IS NOT NULL`), "ids order by the millisecond")
	require.Equal(t, "018cc251-f400", one[string](db, `SELECT left(uuid_v7('2024-01-01Z')::text, 13)`), "the first 48 bits are milliseconds since 1970")
	require.True(t, one[bool](db, `
		SELECT bool_and(uuid_v7(at) >= uuid_v7_floor(at) AND uuid_v7(at) < uuid_v7_floor(at + interval '1 ms'))
		FROM generate_series(timestamptz '2026-01-31 23:59:59.9Z', timestamptz '2026-02-01 00:00:00.1Z', interval '1 ms') at`),
		"the floor of a moment divides the ids before it from those after")
}
