package server

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	compare "github.com/google/go-cmp/cmp"

	fanfare "github.com/fanfare-dev/fanfare"
)

// templateBooks are the fake ledger's templates, in the order of their versions.
type templateBooks struct{ templates []fanfare.Template }

func (f *fakeLedger) PutTemplate(ctx context.Context, t fanfare.Template) (fanfare.Template, bool, error) {
	leave, err := f.enter(ctx, "put template")
	defer leave()
	if err != nil {
		return fanfare.Template{}, false, err
	}
	t.Version = 1
	if before, found := f.template(t.Name, 0); found {
		if before.DefaultLocale == t.DefaultLocale && compare.Equal(before.Texts, t.Texts) {
			return before, false, nil
		}
		t.Version = before.Version + 1
	}
	t.CreatedAt = time.Date(2026, 1, 1, 0, 0, t.Version, 0, time.UTC)
	f.templates = append(f.templates, t)
	return t, true, nil
}

func (f *fakeLedger) template(name string, version int) (fanfare.Template, bool) {
	for _, t := range slices.Backward(f.templates) {
		if t.Name == name && (version == 0 || version == t.Version) {
			return t, true
		}
	}
	return fanfare.Template{}, false
}

func (f *fakeLedger) Template(ctx context.Context, name string, version int) (fanfare.Template, error) {
	leave, err := f.enter(ctx, "read template")
	defer leave()
	if err != nil {
		return fanfare.Template{}, err
	}
	t, found := f.template(name, version)
	if !found {
		return t, fmt.Errorf("read template %s: %w", name, fanfare.ErrNotFound)
	}
	return t, nil
}

func (f *fakeLedger) Templates(ctx context.Context, after string, limit int) ([]fanfare.TemplateSummary, error) {
	leave, err := f.enter(ctx, "list templates")
	defer leave()
	latest := map[string]fanfare.TemplateSummary{}
	for _, t := range f.templates {
		latest[t.Name] = summaryOf(t)
	}
	var list []fanfare.TemplateSummary
	for name, t := range latest {
		if name > after {
			list = append(list, t)
		}
	}
	slices.SortFunc(list, func(a, b fanfare.TemplateSummary) int { return cmp.Compare(a.Name, b.Name) })
	return list[:min(limit, len(list))], err
}

func (f *fakeLedger) TemplateVersions(ctx context.Context, name string, before, limit int) ([]fanfare.TemplateSummary, error) {
	leave, err := f.enter(ctx, "list versions")
	defer leave()
	var list []fanfare.TemplateSummary
	for _, t := range slices.Backward(f.templates) {
		if t.Name == name && (before == 0 || t.Version < before) && len(list) < limit {
			list = append(list, summaryOf(t))
		}
	}
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("list versions: %w", fanfare.ErrNotFound)
	}
	return list, err
}

func summaryOf(t fanfare.Template) fanfare.TemplateSummary {
	s := fanfare.TemplateSummary{Name: t.Name, Version: t.Version, CreatedAt: t.CreatedAt, DefaultLocale: t.DefaultLocale, Locales: map[fanfare.Channel][]string{}}
	for channel := range t.Texts {
		s.Locales[channel] = t.Locales(channel)
	}
	return s
}
