package sandbox

import "time"

// The courses that an SMS can take, after the status that the answer to the call
// says, of which Twilio tells nobody.
var (
	sentStep = step{event: "sent", after: soon / 2}

	deliveredText = []step{sentStep, {event: "delivered", after: 2 * soon}}
	silentText    = []step{sentStep}

	// textCourses are those of numbers that choose theirs, by the last four digits of
	// the code that Twilio reports.
	textCourses = map[string][]step{
		"0000": silentText,
		"0001": failedText(30001),
		"0003": undeliveredText(30003),
		"0004": undeliveredText(30004),
		"0005": undeliveredText(30005),
		"0006": undeliveredText(30006),
		"0007": undeliveredText(30007),
		"0008": failedText(30008),
		"0034": failedText(30034),
	}

	// forgedTextSteps are what forged callbacks say; see forgedSteps.
	forgedTextSteps = [2]step{
		{event: "undelivered", after: soon, code: 30005},
		{event: "delivered", after: soon},
	}
)

func failedText(code int) []step { return []step{{event: "failed", after: soon / 2, code: code}} }

func undeliveredText(code int) []step {
	return []step{sentStep, {event: "undelivered", after: 2 * soon, code: code}}
}

// smsCourse is what happens to an SMS; its number may ask for something.
func smsCourse(number string) []step {
	if steps := textCourses[ending(number)]; steps != nil {
		return steps
	}
	return deliveredText
}

// status is what an SMS has come to.
type status struct {
	name  string
	code  int
	since time.Time
	left  bool // Twilio's queue
}

// smsStatus is that of an SMS at a time, whether or not its callback has been posted.
func smsStatus(e *single, t *text, now time.Time) status {
	out := status{name: "queued", since: e.at}
	if t.service != "" {
		out.name = "accepted"
	}
	for _, s := range smsCourse(e.address) {
		if at := e.at.Add(s.after); !now.Before(at) {
			out = status{name: s.event, code: s.code, since: at, left: true}
		}
	}
	return out
}
