package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/labstack/echo/v4"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

// Breakers show and set whether providers may be called. A name that nobody has
// is fanfare.ErrNotFound.
type Breakers interface {
	Providers(ctx context.Context) ([]fanfare.Provider, error)
	OpenProvider(ctx context.Context, name string, pin bool) error
	CloseProvider(ctx context.Context, name string, pin bool) error
}

type providers struct{ breakers Breakers }

func (p *providers) ListProviders(c echo.Context) error {
	list, err := p.breakers.Providers(c.Request().Context())
	if err != nil {
		return err
	}
	if list == nil {
		list = []fanfare.Provider{}
	}
	return c.JSON(http.StatusOK, api.ProviderList{Items: list})
}

func (p *providers) OpenProvider(c echo.Context, name string) error {
	return p.turn(c, name, p.breakers.OpenProvider)
}

func (p *providers) CloseProvider(c echo.Context, name string) error {
	return p.turn(c, name, p.breakers.CloseProvider)
}

// turn sets a breaker and answers how it stands then.
func (p *providers) turn(c echo.Context, name string, set func(ctx context.Context, name string, pin bool) error) error {
	var asked api.BreakerBody
	if c.Request().ContentLength != 0 {
		if err := decode(c, &asked); err != nil {
			return err
		}
	}
	ctx := c.Request().Context()
	err := set(ctx, name, asked.Pin)
	if errors.Is(err, fanfare.ErrNotFound) {
		return errNoProvider
	}
	if err != nil {
		return err
	}
	list, err := p.breakers.Providers(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(list, func(p fanfare.Provider) bool { return p.Name == name })
	if i < 0 {
		return fmt.Errorf("read provider %s: it is gone after it was set", name)
	}
	return c.JSON(http.StatusOK, list[i])
}
