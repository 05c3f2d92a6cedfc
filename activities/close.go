package activities

import (
	"context"
	"errors"

	fanfare "github.com/fanfare-dev/fanfare"
)

// closeSize is how many recipients one statement skips: as many as fit in a
// second on a small machine.
const closeSize = 10000

// Closer ends what is left of a stopped publication.
type Closer interface {
	CloseBatch(ctx context.Context, ref fanfare.BatchRef, limit int) (done bool, err error)
}

// Closing writes why nobody else is sent to, when a publication was cancelled
// or has expired.
type Closing struct {
	Planner   Planner
	Closer    Closer
	BatchSize int
}

// Close plans what was never planned and skips everyone who was not sent to,
// with the reason. Calls under way settle by themselves.
func (c *Closing) Close(ctx context.Context, id fanfare.PublicationID) error {
	stop := heartbeat(ctx)
	defer stop()
	for {
		_, complete, err := c.Planner.Plan(ctx, id, c.BatchSize, 100)
		if err != nil {
			return err
		}
		if complete {
			break
		}
	}
	announcement, err := c.Planner.Announcement(ctx, id)
	if err != nil {
		return err
	}
	for _, channel := range announcement.Channels {
		if err := c.closeChannel(ctx, id, channel); err != nil {
			return err
		}
	}
	return nil
}

func (c *Closing) closeChannel(ctx context.Context, id fanfare.PublicationID, channel fanfare.Channel) error {
	const page = 100
	for after := 0; ; {
		batches, err := c.Planner.OpenBatches(ctx, id, channel, after, page)
		if err != nil {
			return err
		}
		for _, b := range batches {
			if err := closeBatch(ctx, c.Closer, b.BatchRef); err != nil {
				return err
			}
			after = b.N
		}
		if len(batches) < page {
			return nil
		}
	}
}

// closeBatch ends when nobody is left to skip, or the publication was opened again
// meanwhile: then nobody is to be skipped.
func closeBatch(ctx context.Context, closer Closer, ref fanfare.BatchRef) error {
	for {
		done, err := closer.CloseBatch(ctx, ref, closeSize)
		if errors.Is(err, fanfare.ErrWrongState) {
			return nil
		}
		if err != nil || done {
			return err
		}
	}
}
