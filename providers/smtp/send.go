package smtp

import (
	"context"
	"errors"
	"fmt"
	"net/textproto"
	"time"

	gosmtp "github.com/wneessen/go-mail/smtp"

	"github.com/fanfare-dev/fanfare"
)

var errNoUTF8 = errors.New("the address is not ASCII and the relay takes no other (SMTPUTF8)")

// Send makes one call, once, and says what it came to. ctx carries the lease of
// the call (fanfare.WithLease) and ends with it.
func (s *Sender) Send(ctx context.Context, call fanfare.Call) fanfare.Reply {
	if n := len(call.Recipients); n != 1 {
		return fanfare.Reply{Split: n > 1, Outcome: fanfare.Outcome{Kind: fanfare.OutcomeReleased, Detail: "a message by SMTP has one recipient"}}
	}
	mail, err := s.compose(call)
	if err != nil {
		return judge(ctx, atCompose, err)
	}
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	case <-ctx.Done():
		return fanfare.Reply{Outcome: fanfare.Outcome{Kind: fanfare.OutcomeReleased, Detail: "all connections to the relay were in use"}}
	}
	if err := mayBegin(ctx); err != nil {
		return judge(ctx, atGate, err)
	}
	if kept := s.kept.take(); kept != nil {
		answer, at, err := s.hand(ctx, kept, mail)
		if !stale(ctx, at, err) {
			return verdict(ctx, answer, at, err)
		}
		s.log.DebugContext(ctx, "the relay had closed a kept connection, connecting again", "provider", s.name, "call", call.ID)
	}
	fresh, at, err := s.connect(ctx)
	if err != nil {
		return judge(ctx, at, err)
	}
	answer, at, err := s.hand(ctx, fresh, mail)
	return verdict(ctx, answer, at, err)
}

// verdict is judge, or that the relay has the message.
func verdict(ctx context.Context, answer string, at step, err error) fanfare.Reply {
	if err != nil {
		return judge(ctx, at, err)
	}
	return accepted(250, answer)
}

// stale tells a connection that had been closed, or is closed with 421 now, while
// it was kept: the relay has taken nothing of the message on it.
func stale(ctx context.Context, at step, err error) bool {
	if err == nil || at != atMail || ctx.Err() != nil {
		return false
	}
	answer, answered := errors.AsType[*textproto.Error](err)
	return !answered || answer.Code == closing
}

// hand gives the relay a message on c, and then keeps c or closes it. answer is
// what the relay said when it took the message; an error comes with its step.
func (s *Sender) hand(ctx context.Context, c *conn, mail envelope) (answer string, at step, err error) {
	stop := endWith(ctx, c.raw)
	answer, at, err = c.speak(ctx, mail)
	if !stop() {
		return answer, at, err // closed by then
	}
	_, refused := errors.AsType[*textproto.Error](err)
	switch {
	case (err == nil || at == atGate) && c.client.Text.R.Buffered() == 0:
		// Whatever the relay had said unasked would pass for its next answer.
		s.kept.put(c)
	case err == nil || at == atGate || refused:
		// To begin anew is dearer than RSET, and safer: relays slow down a connection
		// on which much was refused, and some count it out.
		c.part()
	default:
		_ = c.raw.Close()
	}
	return answer, at, err
}

// speak goes through the steps of one message.
func (c *conn) speak(ctx context.Context, mail envelope) (answer string, at step, err error) {
	c.client.SkipSMTPUTF8(!mail.utf8) // asked for without need, it would keep mail from relays further on that lack it
	if offered, _ := c.client.Extension("SMTPUTF8"); mail.utf8 && !offered {
		return "", atGate, errNoUTF8
	}
	if err := mayBegin(ctx); err != nil {
		return "", atGate, err
	}
	if err := c.client.Mail(mail.from); err != nil {
		return "", atMail, err
	}
	if err := c.client.Rcpt(mail.to); err != nil {
		return "", atRcpt, err
	}
	data, err := c.client.Data()
	if err != nil {
		return "", atData, err
	}
	// All but the dot has left us before the dot is begun: what fails until then
	// was not accepted.
	_, err = data.Write(mail.data)
	if err == nil {
		err = c.client.Text.W.Flush()
	}
	if err != nil {
		return "", atBody, c.lastWords(err)
	}
	if err := mayEnd(ctx); err != nil {
		return "", atBody, err
	}
	if err := data.Close(); err != nil {
		return "", atDot, err
	}
	if closer, ok := data.(*gosmtp.DataCloser); ok {
		answer = closer.ServerResponse()
	}
	return answer, atDot, nil
}

// lastWords is what a relay said before it cut a message short, or else how it
// broke. Nothing can be waited for on a broken connection.
func (c *conn) lastWords(broken error) error {
	_, _, err := c.client.Text.ReadResponse(354) // any other code is an error
	if refusal, ok := errors.AsType[*textproto.Error](err); ok {
		return refusal
	}
	return broken
}

// mayBegin asks the lease in ctx, if there is one.
func mayBegin(ctx context.Context) error {
	if lease := fanfare.LeaseFrom(ctx); lease != nil {
		return lease.MayBegin()
	}
	return ctx.Err()
}

// mayEnd looks at the clock on the wall: a machine that slept wakes up with time
// left in its context and none in the ledger.
func mayEnd(ctx context.Context) error {
	lease := fanfare.LeaseFrom(ctx)
	if lease != nil && !time.Now().Round(0).Before(lease.Deadline().Round(0)) {
		return fmt.Errorf("call %s: the message was not written in time: %w", lease.Call, fanfare.ErrTooLate)
	}
	return nil
}
