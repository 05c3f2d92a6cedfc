package e2e

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func letters(subject string) map[string]any {
	return map[string]any{"default_locale": "en", "texts": map[string]any{"email": map[string]any{
		"en": map[string]string{"subject": subject + " {{ name }}", "html": "<p>{{ name }}</p>"},
		"pt": map[string]string{"subject": subject + " pt {{ name }}", "text": "{{ name }}: {{ preferences_url }}"},
	}}}
}

// TestATemplateEditedUnderADelayedRun sends what was accepted, to each in their own
// language.
func TestATemplateEditedUnderADelayedRun(t *testing.T) {
	t.Parallel()
	st := start(t, setup{workers: 1})
	st.subscribe(1)
	st.importLines(
		`{"id":"ana","email":"ana@mail.example","locale":"pt-BR"}`,
		`{"id":"ben","email":"ben@mail.example","locale":"de"}`,
		`{"id":"eve","email":"eve@mail.example","locale":"en-GB"}`,
	)
	st.call(http.MethodPut, "/v1/templates/letter", letters("First"), http.StatusCreated, nil)
	var refused struct {
		Violations []struct{ Field, Detail string }
	}
	st.call(http.MethodPost, "/v1/publications", map[string]any{
		"key": "refused", "topic": "writer-1", "content": map[string]any{"template": "letter"},
	}, http.StatusBadRequest, &refused)
	require.Len(t, refused.Violations, 1)
	require.Equal(t, "content.data.name", refused.Violations[0].Field)
	require.Equal(t, "is missing (email, en; email, pt)", refused.Violations[0].Detail)

	id := st.publishWith(map[string]any{
		"key": "letter-1", "topic": "writer-1", "scheduled_at": soon(),
		"content": map[string]any{"template": "letter", "data": map[string]any{"name": "<Ebb>"}},
	})
	st.call(http.MethodPut, "/v1/templates/letter", letters("Second"), http.StatusCreated, nil)
	require.EqualValues(t, 4, st.completes(id).Totals.Sent)

	for to, subject := range map[string]string{
		"ana@mail.example": "First pt <Ebb>", "ben@mail.example": "First <Ebb>", "eve@mail.example": "First <Ebb>", "reader-1@mail.example": "First <Ebb>",
	} {
		got := st.sandbox.Messages("", to, 10)
		require.Len(t, got, 1, to)
		require.Equal(t, subject, got[0].Subject)
		require.NotContains(t, got[0].HTML+got[0].Text, "[%", "every recipient's own links are put in")
		if strings.Contains(subject, "pt") {
			require.Regexp(t, `^<Ebb>: http\S+/preferences/\S+\n\n--\n(.*\n)+Unsubscribe: http\S+/unsubscribe/`, got[0].Text)
		} else {
			require.Contains(t, got[0].HTML, "<p>&lt;Ebb&gt;</p>")
			require.Regexp(t, `href="http\S+/unsubscribe/\S+"`, got[0].HTML)
		}
	}

	var test struct{ ID, Key string }
	st.call(http.MethodPost, "/v1/templates/letter/test", map[string]any{
		"channel": "email", "subscriber": "ana", "data": map[string]any{"name": "Flow"},
	}, http.StatusAccepted, &test)
	require.Eventually(t, func() bool { return len(st.sandbox.Messages("", "ana@mail.example", 10)) == 2 }, patience, tick)
	require.Equal(t, "Second pt Flow", st.sandbox.Messages("", "ana@mail.example", 1)[0].Subject)
	require.True(t, st.verify().OK)
}
