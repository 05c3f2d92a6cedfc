package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/activities"
	"github.com/fanfare-dev/fanfare/providers/fcm"
	"github.com/fanfare-dev/fanfare/providers/sendgrid"
	"github.com/fanfare-dev/fanfare/providers/smtp"
	"github.com/fanfare-dev/fanfare/providers/twilio"
	"github.com/fanfare-dev/fanfare/server"
)

// provider is one that a channel can be sent through. Its name is in records, and
// does not change.
type provider struct {
	name     string
	on       bool // it has credentials
	switchOn string
	sender   func(hc *http.Client, log *slog.Logger) (activities.Sender, error)
}

// offer is all that a channel can be sent through.
type offer struct {
	channel fanfare.Channel
	// setting is the one by which providers are chosen, and chosen what it says; empty
	// where there is no choice.
	setting string
	chosen  []string
	// providers are all there are, in the order in which they are used unless the
	// setting says otherwise.
	providers []provider
}

// on reports whether there is anything to send through.
func (o offer) on() bool {
	return slices.ContainsFunc(o.providers, func(p provider) bool { return p.on })
}

// offers are those of every channel that needs a provider. A new provider is one more
// entry in one of them.
func (s ProviderSettings) offers() []offer {
	return []offer{s.EmailSettings.offer(), s.SMSSettings.offer(s.publicURL()), s.PushSettings.offer()}
}

func (s EmailSettings) offer() offer {
	account := func(c sendgrid.Config) func(*http.Client, *slog.Logger) (activities.Sender, error) {
		return func(hc *http.Client, _ *slog.Logger) (activities.Sender, error) { return sendgrid.New(c, hc) }
	}
	return offer{fanfare.Email, "FANFARE_EMAIL_PROVIDERS", s.EmailProviders, []provider{
		{
			"sendgrid", s.SendGridAPIKey != "", "set SENDGRID_API_KEY and SENDGRID_FROM",
			account(sendgrid.Config{Name: "sendgrid", APIKey: s.SendGridAPIKey, BaseURL: s.SendGridBaseURL, From: s.SendGridFrom}),
		},
		{
			"sendgrid-2", s.SendGrid2APIKey != "", "set SENDGRID_2_API_KEY and SENDGRID_2_FROM",
			account(sendgrid.Config{Name: "sendgrid-2", APIKey: s.SendGrid2APIKey, BaseURL: s.SendGrid2BaseURL, From: s.SendGrid2From}),
		},
		{
			"smtp", s.SMTPURL != "", "set SMTP_URL and SMTP_FROM",
			func(_ *http.Client, log *slog.Logger) (activities.Sender, error) {
				return smtp.New(smtp.Config{Name: "smtp", URL: s.SMTPURL, From: s.SMTPFrom, Log: log})
			},
		},
	}}
}

func (s SMSSettings) offer(publicURL string) offer {
	o := offer{channel: fanfare.SMS, setting: "FANFARE_SMS_PROVIDERS", chosen: s.SMSProviders}
	for _, c := range s.twilio(publicURL) {
		named := func(which string) string { return fanfare.SettingName(c.Name, which) }
		o.providers = append(o.providers, provider{
			c.Name, c.AccountSID != "" || c.AuthToken != "", fmt.Sprintf("set %s, %s and %s", named("ACCOUNT_SID"), named("AUTH_TOKEN"), named("FROM")),
			func(hc *http.Client, _ *slog.Logger) (activities.Sender, error) { return twilio.New(c, hc) },
		})
	}
	return o
}

// twilio are the accounts there can be, used or not.
func (s SMSSettings) twilio(publicURL string) []twilio.Config {
	return []twilio.Config{
		{Name: "twilio", AccountSID: s.TwilioAccountSID, AuthToken: s.TwilioAuthToken, From: s.TwilioFrom, BaseURL: s.TwilioBaseURL, PublicURL: publicURL},
		{Name: "twilio-2", AccountSID: s.Twilio2AccountSID, AuthToken: s.Twilio2AuthToken, From: s.Twilio2From, BaseURL: s.Twilio2BaseURL, PublicURL: publicURL},
	}
}

func (s PushSettings) offer() offer {
	return offer{channel: fanfare.Push, providers: []provider{{
		"fcm", s.FCMProjectID != "" && (s.GoogleCredentials != "" || s.FCMBaseURL != ""), "set FCM_PROJECT_ID and GOOGLE_APPLICATION_CREDENTIALS",
		func(hc *http.Client, _ *slog.Logger) (activities.Sender, error) {
			c := fcm.Config{Name: "fcm", ProjectID: s.FCMProjectID, BaseURL: s.FCMBaseURL, CredentialsFile: s.GoogleCredentials}
			return fcm.New(context.Background(), c, hc) //nolint:forbidigo // it has no values of use, and nothing waits on it
		},
	}}}
}

// channels are those with credentials, and in-app, which needs none.
func (s ProviderSettings) channels() []fanfare.Channel {
	var on []fanfare.Channel
	for _, o := range s.offers() {
		if o.on() {
			on = append(on, o.channel)
		}
	}
	return append(on, fanfare.InApp)
}

// refused reports what a provider finds wrong with its settings. What all providers
// share is in checkLinks, which is no more lenient than they are.
func (r report) refused(err error) {
	var invalid *fanfare.InvalidError
	if errors.As(err, &invalid) {
		for _, v := range invalid.Violations {
			if v.Field != "FANFARE_PUBLIC_URL" {
				r(v.Field, v.Detail)
			}
		}
	}
}

// checkProviders asks the providers what they would refuse.
func (s ProviderSettings) checkProviders(r report) {
	for _, o := range s.offers() {
		o.check(r)
	}
}

func (o offer) check(r report) {
	how, on := map[string]string{}, map[string]bool{}
	for _, p := range o.providers {
		how[p.name], on[p.name] = p.switchOn, p.on
		if p.on {
			_, err := p.sender(http.DefaultClient, slog.New(slog.DiscardHandler))
			r.refused(err)
		}
	}
	named := map[string]bool{}
	for _, name := range o.chosen {
		name = strings.TrimSpace(name)
		switch {
		case how[name] == "":
			r(o.setting, fmt.Sprintf("names %q, which there is not; choose among %s", name, strings.Join(slices.Sorted(maps.Keys(how)), ", ")))
		case named[name]:
			r(o.setting, "names "+name+" twice; name each once, the preferred one first")
		case !on[name]:
			r(o.setting, "names "+name+", which has no credentials; "+how[name]+", or leave it out")
		}
		named[name] = true
	}
}

// senders are those of the channel, the preferred one first, and the providers that
// can be asked about a call: also those that nothing is sent through any more, because
// calls of theirs may be in doubt.
func (o offer) senders(hc *http.Client, log *slog.Logger) ([]activities.Sender, map[string]activities.LookUp, error) {
	var order []string
	all, lookUps := map[string]activities.Sender{}, map[string]activities.LookUp{}
	for _, p := range o.providers {
		if !p.on {
			continue
		}
		sender, err := p.sender(hc, log)
		if err != nil {
			return nil, nil, err
		}
		order, all[p.name] = append(order, p.name), sender
		lookUps[p.name] = activities.NoLookUp{}
		if asked, can := sender.(activities.LookUp); can {
			lookUps[p.name] = asked
		}
	}
	if len(o.chosen) > 0 {
		order = o.chosen
	}
	senders := make([]activities.Sender, len(order))
	for i, name := range order {
		senders[i] = all[strings.TrimSpace(name)]
	}
	return senders, lookUps, nil
}

// webhooks are those that can be verified, by the name of their provider. What is wrong
// with the settings of the others goes to r.
func (s serverSettings) webhooks(r report) map[string]server.Webhook {
	on := map[string]server.Webhook{}
	for name, key := range map[string]string{"sendgrid": s.SendGridWebhookKey, "sendgrid-2": s.SendGrid2WebhookKey} {
		if key == "" {
			continue
		}
		if webhook, err := sendgrid.NewWebhook(name, key); err != nil {
			r.refused(err)
		} else {
			on[name] = webhook
		}
	}
	for _, c := range s.twilio(s.publicURL()) {
		if c.AccountSID == "" && c.AuthToken == "" {
			continue
		}
		if webhook, err := twilio.NewWebhook(c.Name, c.AuthToken, c.PublicURL); err != nil {
			r.refused(err)
		} else {
			on[c.Name] = webhook
		}
	}
	return on
}
