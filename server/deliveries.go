package server

import (
	"context"
	"fmt"
	"net/http"

	"github.com/labstack/echo/v4"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

// DeliveryReader reads deliveries.
type DeliveryReader interface {
	Deliveries(ctx context.Context, q fanfare.DeliveryQuery) ([]fanfare.Delivery, error)
	Delivery(ctx context.Context, id fanfare.DeliveryID) (fanfare.Delivery, error)
}

type deliveries struct {
	reader DeliveryReader
	links  links
}

func (d *deliveries) ListDeliveries(c echo.Context, id fanfare.PublicationID, params api.ListDeliveriesParams) error {
	if !fanfare.ValidPublicationID(string(id)) {
		return fmt.Errorf("list deliveries: %w", fanfare.ErrNotFound)
	}
	after, err := readCursor(params.Cursor, func(s string) (*fanfare.DeliveryID, bool) {
		last, err := fanfare.ParseDeliveryID(s)
		return &last, err == nil && last.Publication == id
	})
	if err != nil {
		return err
	}
	limit := pageSize(params.Limit)
	list, err := d.reader.Deliveries(c.Request().Context(), fanfare.DeliveryQuery{
		Publication: id, Channel: params.Channel, State: params.State, After: after, Limit: limit + 1,
	})
	if err != nil {
		return err
	}
	items, next := page(list, limit, func(d fanfare.Delivery) string { return d.ID })
	for i := range items {
		items[i].Links = d.links.ofDelivery(items[i])
	}
	return c.JSON(http.StatusOK, api.DeliveryList{Items: items, NextCursor: next})
}

func (d *deliveries) GetDelivery(c echo.Context, id string) error {
	parsed, err := fanfare.ParseDeliveryID(id)
	if err != nil {
		return fmt.Errorf("read delivery: %w", fanfare.ErrNotFound)
	}
	delivery, err := d.reader.Delivery(c.Request().Context(), parsed)
	if err != nil {
		return err
	}
	delivery.Links = d.links.ofDelivery(delivery)
	return c.JSON(http.StatusOK, delivery)
}
