package fanfare_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare"
)

const publication fanfare.PublicationID = "0198c5a0-7d1e-7cc3-98c4-dc0c0c07398f"

func TestValidName(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"a", "reader-1", "Article:42", "x@y.example", "_._", strings.Repeat("a", 200)} {
		require.True(t, fanfare.ValidName(good), "%q", good)
	}
	for _, bad := range []string{"", " ", "a b", "a\n", "\na", "ñ", "a/b", "a\x00", `a"`, "a%", strings.Repeat("a", 201)} {
		require.False(t, fanfare.ValidName(bad), "%q", bad)
	}
}

func TestDeliveryIDRoundTrip(t *testing.T) {
	t.Parallel()
	for _, channel := range []fanfare.Channel{fanfare.Email, fanfare.SMS, fanfare.Push, fanfare.InApp} {
		id := fanfare.DeliveryID{Publication: publication, Channel: channel, Number: 123}
		require.Equal(t, string(publication)+"."+string(channel)+".123", id.String())
		got, err := fanfare.ParseDeliveryID(id.String())
		require.NoError(t, err)
		require.Equal(t, id, got)
	}
}

func TestParseDeliveryIDRefuses(t *testing.T) {
	t.Parallel()
	p := string(publication)
	for _, bad := range []string{
		"", ".", "..", p, p + ".email", p + ".email.", p + ".email.0", p + ".email.-1", p + ".email.1.2", p + ".email.1e3",
		p + ".email.9223372036854775808", p + ".fax.1", p + "..1", strings.ToUpper(p) + ".email.1", "1.email.1", p + ".email.1\n",
	} {
		_, err := fanfare.ParseDeliveryID(bad)
		require.ErrorIs(t, err, fanfare.ErrInvalid, "%q", bad)
	}
}

func TestWorkflowIDs(t *testing.T) {
	t.Parallel()
	require.Equal(t, "publish/"+string(publication), publication.WorkflowID())
	require.Equal(t, "publish/"+string(publication)+"/email/7", fanfare.BatchRef{Publication: publication, Channel: fanfare.Email, N: 7}.WorkflowID())
}
