package server

import (
	"context"
	"net/http"

	"github.com/labstack/echo/v4"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

// Topics keeps topics and who is subscribed to them.
type Topics interface {
	// PutTopic creates a topic or changes it. Defaults that are not given are as before;
	// it answers all of them.
	PutTopic(ctx context.Context, topic fanfare.Topic, name string, defaults map[fanfare.Channel]bool) (standing map[fanfare.Channel]bool, created bool, err error)
	Subscribe(ctx context.Context, topic fanfare.Topic, id fanfare.SubscriberID) (created bool, err error)
	Unsubscribe(ctx context.Context, topic fanfare.Topic, id fanfare.SubscriberID) error
}

// Subscribers keeps what is known of people.
type Subscribers interface {
	PutSubscriber(ctx context.Context, s fanfare.Subscriber) (created bool, err error)
	Subscriber(ctx context.Context, id fanfare.SubscriberID) (fanfare.Subscriber, error)
	EraseSubscriber(ctx context.Context, id fanfare.SubscriberID) error
}

type audience struct {
	topics      Topics
	subscribers Subscribers
}

func (a *audience) PutTopic(c echo.Context, topic fanfare.Topic) error {
	var body api.TopicBody
	if err := decode(c, &body); err != nil {
		return err
	}
	defaults, created, err := a.topics.PutTopic(c.Request().Context(), topic, body.Name, chosen(body.Defaults))
	if err != nil {
		return err
	}
	return c.JSON(putStatus(created), api.Topic{Topic: topic, Name: body.Name, Defaults: defaults})
}

func (a *audience) Subscribe(c echo.Context, topic fanfare.Topic, id fanfare.SubscriberID) error {
	created, err := a.topics.Subscribe(c.Request().Context(), topic, id)
	if err != nil {
		return err
	}
	return c.JSON(putStatus(created), api.Subscription{Topic: topic, Subscriber: id})
}

func (a *audience) EndSubscription(c echo.Context, topic fanfare.Topic, id fanfare.SubscriberID) error {
	if err := a.topics.Unsubscribe(c.Request().Context(), topic, id); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

func (a *audience) PutSubscriber(c echo.Context, id fanfare.SubscriberID) error {
	var subscriber fanfare.Subscriber
	if err := decode(c, &subscriber); err != nil {
		return err
	}
	subscriber.ID = id
	newSubscriberCheck().check(&subscriber) // the gate found it valid; this writes it in its normal form
	created, err := a.subscribers.PutSubscriber(c.Request().Context(), subscriber)
	if err != nil {
		return err
	}
	return c.JSON(putStatus(created), subscriber)
}

func (a *audience) GetSubscriber(c echo.Context, id fanfare.SubscriberID) error {
	subscriber, err := a.subscribers.Subscriber(c.Request().Context(), id)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, subscriber)
}

func (a *audience) EraseSubscriber(c echo.Context, id fanfare.SubscriberID) error {
	if err := a.subscribers.EraseSubscriber(c.Request().Context(), id); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

func putStatus(created bool) int {
	if created {
		return http.StatusCreated
	}
	return http.StatusOK
}

// checkTopicBody is the deep check of putTopic.
func checkTopicBody(_ context.Context, body []byte) ([]fanfare.Violation, error) {
	var topic api.TopicBody
	decodeLoosely(body, &topic)
	if topic.Name == "" {
		return nil, nil // the description's check names it
	}
	if detail := checkLine(topic.Name); detail != "" {
		return []fanfare.Violation{{Field: "name", Detail: detail}}, nil
	}
	return nil, nil
}

// checkSubscriberBody is the deep check of putSubscriber.
func checkSubscriberBody(_ context.Context, body []byte) ([]fanfare.Violation, error) {
	var subscriber fanfare.Subscriber
	decodeLoosely(body, &subscriber)
	subscriber.ID = "from-the-path" // the description's check judges the path
	return newSubscriberCheck().check(&subscriber), nil
}
