package render_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/render"
)

func TestSegments(t *testing.T) {
	t.Parallel()
	gsm := func(units, segments int) fanfare.Segments {
		return fanfare.Segments{Encoding: "GSM-7", Units: units, Segments: segments}
	}
	ucs := func(units, segments int) fanfare.Segments {
		return fanfare.Segments{Encoding: "UCS-2", Units: units, Segments: segments}
	}
	x := func(n int) string { return strings.Repeat("x", n) }
	for name, c := range map[string]struct {
		text string
		want fanfare.Segments
	}{
		"nothing":                             {"", gsm(0, 0)},
		"one":                                 {x(160), gsm(160, 1)},
		"one more":                            {x(161), gsm(161, 2)},
		"two full":                            {x(306), gsm(306, 2)},
		"two full and one more":               {x(307), gsm(307, 3)},
		"letters beyond ASCII":                {"Öñé@£Δ¿\r\n", gsm(9, 1)},
		"extension takes two":                 {"[€]", gsm(6, 1)},
		"extension fills one":                 {x(158) + "€", gsm(160, 1)},
		"extension overflows one":             {x(159) + "€", gsm(161, 2)},
		"extension ends at the boundary":      {x(151) + "€" + x(153), gsm(306, 2)},
		"extension is not cut":                {x(152) + "€" + x(151), gsm(305, 2)},
		"extension is not cut, and overflows": {x(152) + "€" + x(152), gsm(306, 3)},
		"small ç is not in the alphabet":      {"ç", ucs(1, 1)},
		"a backtick is not either":            {"`", ucs(1, 1)},
		"one of UCS-2":                        {strings.Repeat("日", 70), ucs(70, 1)},
		"two of UCS-2":                        {strings.Repeat("日", 71), ucs(71, 2)},
		"two full of UCS-2":                   {strings.Repeat("日", 134), ucs(134, 2)},
		"three of UCS-2":                      {strings.Repeat("日", 135), ucs(135, 3)},
		"an emoji takes two":                  {"😀", ucs(2, 1)},
		"emoji fill one":                      {strings.Repeat("😀", 35), ucs(70, 1)},
		"an emoji ends at the boundary":       {x(65) + "😀" + x(67), ucs(134, 2)},
		"an emoji is not cut":                 {x(66) + "😀" + x(65), ucs(133, 2)},
		"an emoji is not cut, and overflows":  {x(66) + "😀" + x(66), ucs(134, 3)},
		"33 emoji to a segment":               {strings.Repeat("😀", 67), ucs(134, 3)},
		"the extension is one unit of UCS-2":  {"日€", ucs(2, 1)},
	} {
		require.Equal(t, c.want, render.Segments(c.text), name)
	}
}
