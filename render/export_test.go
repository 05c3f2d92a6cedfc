package render

import "time"

// Hurry makes a renderer that waits so long for all texts of a publication.
func Hurry(patience time.Duration) *Renderer {
	r := New()
	r.patience = patience
	return r
}
