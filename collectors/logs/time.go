package logs

// timeParser parses the RFC 3339 times that container runtimes write. It keeps
// the second that it saw last: neighbouring lines share it. The zero value is
// ready.
type timeParser struct {
	prefix [19]byte // "2006-01-02T15:04:05" of sec
	sec    int64    // unix seconds, before the zone is applied
	valid  bool
}

// parse reads a time at the beginning of b, up to a space, a quotation mark or
// the end. It returns unix nanoseconds and how many bytes it took; n is 0 when
// there is no time, or none between the years 1678 and 2261, which unix
// nanoseconds can hold.
func (p *timeParser) parse(b []byte) (ns int64, n int) {
	if len(b) < 20 {
		return 0, 0
	}
	if !p.valid || string(b[:19]) != string(p.prefix[:]) {
		sec, ok := parseSeconds(b[:19])
		if !ok {
			return 0, 0
		}
		p.sec, p.valid = sec, true
		copy(p.prefix[:], b)
	}
	ns = p.sec * 1e9
	n = 19
	if b[n] == '.' {
		n++
		frac, digits := int64(0), 0
		for n < len(b) && b[n]-'0' <= 9 {
			if digits < 9 { // finer than a nanosecond is cut off
				frac = frac*10 + int64(b[n]-'0')
				digits++
			}
			n++
		}
		if digits == 0 {
			return 0, 0
		}
		for ; digits < 9; digits++ {
			frac *= 10
		}
		ns += frac
	}
	if n >= len(b) {
		return 0, 0
	}
	switch b[n] {
	case 'Z':
		return ns, n + 1
	case '+', '-':
		if len(b) < n+6 || b[n+3] != ':' {
			return 0, 0
		}
		h, ok1 := twoDigits(b[n+1:])
		m, ok2 := twoDigits(b[n+4:])
		if !ok1 || !ok2 || h > 23 || m > 59 {
			return 0, 0
		}
		off := (int64(h)*3600 + int64(m)*60) * 1e9
		if b[n] == '+' {
			off = -off
		}
		return ns + off, n + 6
	}
	return 0, 0
}

func twoDigits(b []byte) (int, bool) {
	x, y := b[0]-'0', b[1]-'0'
	return int(x)*10 + int(y), x <= 9 && y <= 9
}

// parseSeconds reads "2006-01-02T15:04:05".
func parseSeconds(b []byte) (int64, bool) {
	if b[4] != '-' || b[7] != '-' || b[10] != 'T' || b[13] != ':' || b[16] != ':' {
		return 0, false
	}
	c, ok0 := twoDigits(b[0:])
	y, ok1 := twoDigits(b[2:])
	mo, ok2 := twoDigits(b[5:])
	d, ok3 := twoDigits(b[8:])
	h, ok4 := twoDigits(b[11:])
	mi, ok5 := twoDigits(b[14:])
	s, ok6 := twoDigits(b[17:])
	if !(ok0 && ok1 && ok2 && ok3 && ok4 && ok5 && ok6) {
		return 0, false
	}
	y += c * 100
	if y < 1678 || y > 2261 || mo < 1 || mo > 12 || d < 1 || d > 31 || h > 23 || mi > 59 || s > 60 {
		return 0, false
	}
	return daysFromCivil(y, mo, d)*86400 + int64(h)*3600 + int64(mi)*60 + int64(s), true
}

// daysFromCivil counts the days from 1970-01-01, by Howard Hinnant's
// chrono-compatible algorithm (https://howardhinnant.github.io/date_algorithms.html).
// y is positive here.
func daysFromCivil(y, m, d int) int64 {
	if m <= 2 {
		y--
	}
	era := y / 400
	yoe := y - era*400
	doy := (153*((m+9)%12)+2)/5 + d - 1
	doe := yoe*365 + yoe/4 - yoe/100 + doy
	return int64(era)*146097 + int64(doe) - 719468
}
