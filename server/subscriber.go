package server

import (
	"fmt"
	"net/mail"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // time zones must be known on machines without them
	"unicode"
	"unicode/utf8"

	"github.com/nyaruka/phonenumbers"
	"golang.org/x/text/language"

	fanfare "github.com/fanfare-dev/fanfare"
)

// The bounds of a subscriber. openapi.yaml says the same of PUT; lines of an
// import are held to them here.
const (
	maxEmail          = 254 // RFC 5321's path less its brackets
	maxLocalPart      = 64  // RFC 5321
	maxLabel          = 63  // RFC 1035
	maxPhone          = 40  // E.164 has 15 digits; people write more between them
	maxDevices        = 20
	maxDeviceToken    = 4096 // bytes
	maxPlatform       = 50
	maxAttributes     = 100
	maxAttributeName  = 100
	maxAttributeValue = 1000
	maxRemembered     = 1000 // locales and time zones; more than there are in earnest
)

// subscriberCheck judges subscribers. It remembers locales and time zones,
// because imports repeat them; it is not safe for concurrent use.
type subscriberCheck struct {
	locales map[string]string // to the normal form; empty: invalid
	zones   map[string]bool
}

func newSubscriberCheck() *subscriberCheck {
	return &subscriberCheck{locales: map[string]string{}, zones: map[string]bool{}}
}

// check lists what is wrong with s, and writes phone and locale in their
// normal forms. What it says never repeats an address.
func (k *subscriberCheck) check(s *fanfare.Subscriber) []fanfare.Violation {
	var violations []fanfare.Violation
	add := func(field, detail string) {
		violations = append(violations, fanfare.Violation{Field: field, Detail: detail})
	}
	switch {
	case s.ID == "":
		add("id", "is required")
	case !fanfare.ValidName(string(s.ID)):
		add("id", nameHint)
	}
	if s.Email != "" && !validEmail(s.Email) {
		add("email", "must be a plain address, name@domain")
	}
	if s.Phone != "" {
		phone, ok := normalPhone(s.Phone)
		if !ok {
			add("phone", "must be an international number that begins with +")
		}
		s.Phone = phone
	}
	if s.Locale != "" {
		if s.Locale = k.normalLocale(s.Locale); s.Locale == "" {
			add("locale", "must be a language tag such as es or pt-BR")
		}
	}
	if s.TimeZone != "" && !k.validZone(s.TimeZone) {
		add("time_zone", "must be a time zone such as Europe/Madrid")
	}
	if len(s.Devices) > 0 {
		violations = append(violations, checkDevices(s.Devices)...)
	}
	if len(s.Attributes) > 0 {
		violations = append(violations, checkAttributes(s.Attributes)...)
	}
	return violations
}

// validEmail takes addresses that a mail provider can take: no display name,
// no comment, no quoting, a domain with a dot.
func validEmail(s string) bool {
	at := strings.LastIndexByte(s, '@')
	if len(s) > maxEmail || at < 1 || at > maxLocalPart || !validDomain(s[at+1:]) {
		return false
	}
	parsed, err := mail.ParseAddress(s)
	return err == nil && parsed.Address == s && parsed.Name == ""
}

func validDomain(domain string) bool {
	labels, last := 0, ""
	for label := range strings.SplitSeq(domain, ".") {
		if label == "" || len(label) > maxLabel || label[0] == '-' || label[len(label)-1] == '-' || label[0] == '[' {
			return false
		}
		labels, last = labels+1, label
	}
	return labels > 1 && strings.Trim(last, "0123456789") != ""
}

// normalPhone gives the E.164 form of a number that begins with + and has a
// possible length for its country. Whether it is in use only the provider knows.
func normalPhone(s string) (string, bool) {
	if isE164(s) {
		return s, true
	}
	if s[0] != '+' || len(s) > maxPhone {
		return "", false
	}
	number, err := phonenumbers.Parse(s, "")
	if err != nil || number.GetExtension() != "" || phonenumbers.IsPossibleNumberWithReason(number) != phonenumbers.IS_POSSIBLE {
		return "", false
	}
	return phonenumbers.Format(number, phonenumbers.E164), true
}

// isE164 finds most numbers that need no parsing, which takes longer than the
// rest of an import's line. A 0 behind the country's code may be one too many.
func isE164(s string) bool {
	if len(s) < 8 || len(s) > 16 || s[0] != '+' || s[1] == '0' || strings.Trim(s[1:], "0123456789") != "" {
		return false
	}
	for n := 2; n <= 4; n++ { // country codes have 1 to 3 digits, and none begins with another
		country, _ := strconv.ParseInt(s[1:n], 10, 32)
		if !phonenumbers.GetSupportedCallingCodes()[int(country)] {
			continue
		}
		national, _ := strconv.ParseUint(s[n:], 10, 64)
		number := &phonenumbers.PhoneNumber{CountryCode: new(int32(country)), NationalNumber: new(national)}
		return s[n] != '0' && phonenumbers.IsPossibleNumberWithReason(number) == phonenumbers.IS_POSSIBLE
	}
	return false
}

func (k *subscriberCheck) normalLocale(s string) string {
	if normal, known := k.locales[s]; known {
		return normal
	}
	normal := ""
	if len(s) <= 35 { // what RFC 5646 asks software to bear
		if tag, err := language.Parse(s); err == nil && tag != language.Und {
			normal = tag.String()
		}
	}
	if len(k.locales) < maxRemembered {
		k.locales[strings.Clone(s)] = normal
	}
	return normal
}

func (k *subscriberCheck) validZone(s string) bool {
	if valid, known := k.zones[s]; known {
		return valid
	}
	valid := false
	if len(s) <= 64 && s != "Local" {
		_, err := time.LoadLocation(s)
		valid = err == nil
	}
	if len(k.zones) < maxRemembered {
		k.zones[strings.Clone(s)] = valid
	}
	return valid
}

func checkDevices(devices []fanfare.Device) []fanfare.Violation {
	var violations []fanfare.Violation
	if len(devices) > maxDevices {
		violations = append(violations, fanfare.Violation{Field: "devices", Detail: fmt.Sprintf("must have at most %d items", maxDevices)})
	}
	for i, device := range devices {
		add := func(field, detail string) {
			violations = append(violations, fanfare.Violation{Field: fmt.Sprintf("devices[%d].%s", i, field), Detail: detail})
		}
		switch {
		case device.Token == "":
			add("token", "is required")
		case len(device.Token) > maxDeviceToken:
			add("token", fmt.Sprintf("must have at most %d bytes", maxDeviceToken))
		case strings.ContainsFunc(device.Token, unicode.IsControl):
			add("token", "must not contain control characters")
		}
		if utf8.RuneCountInString(device.Platform) > maxPlatform || strings.ContainsFunc(device.Platform, unicode.IsControl) {
			add("platform", fmt.Sprintf("must have at most %d characters, none of them a control character", maxPlatform))
		}
	}
	return violations
}

func checkAttributes(attributes map[string]string) []fanfare.Violation {
	var violations []fanfare.Violation
	add := func(field, detail string) {
		violations = append(violations, fanfare.Violation{Field: field, Detail: detail})
	}
	if len(attributes) > maxAttributes {
		add("attributes", fmt.Sprintf("must have at most %d members", maxAttributes))
	}
	for name, value := range attributes {
		field := "attributes"
		if plainName(name) {
			field += "." + name
		}
		switch {
		case name == "" || utf8.RuneCountInString(name) > maxAttributeName || strings.ContainsFunc(name, unicode.IsControl):
			add("attributes", fmt.Sprintf("names must have 1 to %d characters, none of them a control character", maxAttributeName))
		case utf8.RuneCountInString(value) > maxAttributeValue:
			add(field, fmt.Sprintf("must have at most %d characters", maxAttributeValue))
		case strings.ContainsRune(value, 0):
			add(field, "must not contain a NUL character")
		}
	}
	slices.SortFunc(violations, func(a, b fanfare.Violation) int { return strings.Compare(a.Field, b.Field) })
	return violations
}

// plainName reports whether a name that a client made up may be repeated in an
// import's report: it is certainly no address.
func plainName(name string) bool { return fanfare.ValidName(name) && !strings.Contains(name, "@") }
