package render

import "time"

// Hurry makes a renderer that waits so long for all texts of a publication, and for each of
// a message that is sent.
func Hurry(patience time.Duration) *Renderer {
	r := New()
	r.patience, r.sending = patience, patience
	return r
}
