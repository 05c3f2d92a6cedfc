package render

import (
	"strings"
	"unicode/utf16"

	"github.com/fanfare-dev/fanfare"
)

// The units of an SMS (3GPP TS 23.040): 140 bytes are 160 septets or 70 UTF-16 units.
// Where there are several, each begins with a header of 6 bytes that puts them together
// again.
const (
	oneGSM, eachGSM = 160, 153
	oneUCS, eachUCS = 70, 67
)

// The alphabet of GSM-7 (3GPP TS 23.038, 6.2.1), and its extension, whose characters
// take two septets.
const (
	gsmBasic = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?" +
		"¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
	gsmExtension = "\f^{}\\[~]|€"
)

// Segments counts what an SMS is cut into. A character is never cut: what would be its
// first half moves to the next segment with it.
func Segments(text string) fanfare.Segments {
	gsm := make([]int, 0, len(text))
	ucs := make([]int, 0, len(text))
	plain := true
	for _, c := range text {
		ucs = append(ucs, max(1, utf16.RuneLen(c)))
		switch {
		case strings.ContainsRune(gsmBasic, c):
			gsm = append(gsm, 1)
		case strings.ContainsRune(gsmExtension, c):
			gsm = append(gsm, 2)
		default:
			plain = false
		}
	}
	if plain {
		return cut("GSM-7", gsm, oneGSM, eachGSM)
	}
	return cut("UCS-2", ucs, oneUCS, eachUCS)
}

// cut fills segments with characters of so many units.
func cut(encoding string, characters []int, one, each int) fanfare.Segments {
	s := fanfare.Segments{Encoding: encoding}
	for _, units := range characters {
		s.Units += units
	}
	switch {
	case s.Units == 0:
		return s
	case s.Units <= one:
		s.Segments = 1
		return s
	}
	s.Segments = 1
	used := 0
	for _, units := range characters {
		if used += units; used > each {
			s.Segments++
			used = units
		}
	}
	return s
}
