// Package fcm sends push notifications through Firebase Cloud Messaging's HTTP v1 API,
// and is the only importer of its SDK. Android, Apple and web devices are reached alike.
//
// It owns the shape of a request and the meaning of an answer. It never retries, never
// waits, never decides who is sent to and keeps nothing between calls but its sign-in at
// Google; what it is told to send, it sends once to each device.
//
// It promises:
//
//  1. A call is one request for each device of its recipient, and each request passes
//     the gate by itself. What became of each is in Reply.Devices.
//  2. The call was accepted when any device was. Short of that, what may have been
//     accepted at one device is ambiguous as a whole, and only what certainly was not
//     can be sent again.
//  3. A token is given up only where FCM says that this very token is of no use.
//  4. What it says about a call holds no token and no content, so that it can be logged
//     and kept.
//
// A message that is sent twice shows once: the delivery's id is its collapse key, its
// collapse id and its tag, so that the second takes the place of the first. There is
// nothing to look a call up by.
//
// The SDK makes and reads the requests. It also retries 503 and every error of the
// network four times, within one call and without asking; oneTry keeps that from it.
package fcm

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	firebase "firebase.google.com/go/v4"
	"firebase.google.com/go/v4/messaging"
	"google.golang.org/api/option"

	"github.com/fanfare-dev/fanfare"
)

// google is where FCM is.
const google = "https://fcm.googleapis.com"

// Config is what FCM needs to know of us.
type Config struct {
	// Name is the provider's name in records and in front of its codes; empty is "fcm".
	Name string
	// ProjectID is the id of the Firebase project whose app is on the devices.
	ProjectID string
	// BaseURL is another host to talk to, a stand-in; empty is FCM itself.
	BaseURL string
	// CredentialsFile holds the key of a service account that may send messages. Only a
	// stand-in can do without.
	CredentialsFile string
}

// Sender sends push notifications through FCM. It is safe for concurrent use.
type Sender struct {
	name   string
	client *messaging.Client
}

// New checks the settings and makes a sender that talks through hc, also to sign in. To
// keep its promise of no late call, hc's transport has to be a fanfare.GatedTransport.
// Redirects are answers, never followed: a second request would be a second call. ctx
// is for its values alone; nothing is asked of the network. The error matches
// fanfare.ErrInvalid and names every bad setting.
func New(ctx context.Context, c Config, hc *http.Client) (*Sender, error) {
	name := cmp.Or(c.Name, "fcm")
	var wrong []fanfare.Violation
	bad := func(setting, why string) {
		if why != "" {
			wrong = append(wrong, fanfare.Violation{Field: setting, Detail: why})
		}
	}
	signedIn, why := signIn(ctx, c, cmp.Or(hc.Transport, http.DefaultTransport))
	bad("GOOGLE_APPLICATION_CREDENTIALS", why)
	bad(fanfare.SettingName(name, "PROJECT_ID"), checkProject(c.ProjectID))
	base, why := fanfare.ParseBaseURL(cmp.Or(c.BaseURL, google))
	bad(fanfare.SettingName(name, "BASE_URL"), why)
	if len(wrong) > 0 {
		return nil, fmt.Errorf("configure %s: %w", name, &fanfare.InvalidError{Violations: wrong})
	}
	own := *hc
	own.Transport = oneTry{signedIn}
	app, err := firebase.NewApp(ctx, &firebase.Config{ProjectID: c.ProjectID}, option.WithHTTPClient(&own), option.WithEndpoint(base.String()+"/v1"))
	if err != nil {
		return nil, fmt.Errorf("configure %s: %w", name, err)
	}
	client, err := app.Messaging(ctx)
	if err != nil {
		return nil, fmt.Errorf("configure %s: %w", name, err)
	}
	return &Sender{name: name, client: client}, nil
}

// project is what Google makes ids of; those of old have a domain in front.
var project = regexp.MustCompile(`^[a-z0-9][a-z0-9.:-]{0,98}[a-z0-9]$`)

func checkProject(id string) (why string) {
	if !project.MatchString(id) {
		return "must be the id of a Firebase project, such as my-blog-1a2b3"
	}
	return ""
}

// atGoogle says whether a base URL is one of Google's own, which want a sign-in.
func atGoogle(base string) bool {
	u, err := url.Parse(cmp.Or(base, google))
	return err == nil && (u.Hostname() == "googleapis.com" || strings.HasSuffix(u.Hostname(), ".googleapis.com"))
}

// Name is the provider's name in records and in front of its codes.
func (s *Sender) Name() string { return s.name }

// MaxRecipients is how many recipients one call may have. FCM takes one token to a request.
func (s *Sender) MaxRecipients() int { return 1 }
