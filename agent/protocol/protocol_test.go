package protocol

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestParseHello(t *testing.T) {
	tests := []struct {
		line    string
		version uint32
		ok      bool
	}{
		{"runv-agent 1\n", 1, true},
		{"runv-agent 4294967295\n", 4294967295, true},
		{"runv-agent 4294967296\n", 0, false},
		{"runv-agent 0\n", 0, false},
		{"runv-agent 01\n", 0, false},
		{"runv-agent -1\n", 0, false},
		{"runv-agent +1\n", 0, false},
		{"runv-agent 1_0\n", 0, false},
		{"runv-agent 1", 0, false},
		{"runv-agent 1\n\n", 0, false},
		{"runv-agent \n", 0, false},
		{"runv-agent 1 x\n", 0, false},
		{"other 1\n", 0, false},
		{"", 0, false},
	}
	for _, tt := range tests {
		version, err := ParseHello([]byte(tt.line))
		if version != tt.version || (err == nil) != tt.ok {
			t.Errorf("ParseHello(%q) = %d, %v; want %d, ok %t", tt.line, version, err, tt.version, tt.ok)
		}
	}
}

func TestReadHello(t *testing.T) {
	if err := ReadHello(bytes.NewReader(AppendHello(nil))); err != nil {
		t.Error("our own hello:", err)
	}
	for _, line := range []string{"", "runv-agent 2\n", "runv-agent 1\nmore", strings.Repeat("x", 1<<20)} {
		r := strings.NewReader(line)
		if err := ReadHello(r); err == nil {
			t.Errorf("%.20q is accepted", line)
		}
		if read := len(line) - r.Len(); read > maxHello+1 {
			t.Errorf("%d bytes read", read)
		}
	}
}

func TestTokens(t *testing.T) {
	full := bytes.Repeat([]byte{7}, TokenSize)
	if token, err := ParseToken(nil); err != nil || token != (Token{}) {
		t.Errorf("empty: %v, %v", token, err)
	}
	if token, err := ParseToken(full); err != nil || !bytes.Equal(token[:], full) {
		t.Errorf("full: %v, %v", token, err)
	}
	for _, b := range [][]byte{full[:15], append(full, 1), make([]byte, TokenSize)} {
		if _, err := ParseToken(b); !errors.Is(err, ErrToken) {
			t.Errorf("%v: %v", b, err)
		}
	}
	if token, err := ReadToken(bytes.NewReader(append(full, "rest"...))); err != nil || !bytes.Equal(token[:], full) {
		t.Errorf("read: %v, %v", token, err)
	}
	if _, err := ReadToken(bytes.NewReader(full[:3])); err == nil {
		t.Error("a short token is accepted")
	}
	if _, err := ReadToken(bytes.NewReader(make([]byte, TokenSize))); !errors.Is(err, ErrToken) {
		t.Error("the zero token is accepted")
	}
}

func TestCheckID(t *testing.T) {
	for _, id := range []string{"a", "A-b_c+d.e", strings.Repeat("x", MaxID)} {
		if err := CheckID(id); err != nil {
			t.Error(err)
		}
	}
	for _, id := range []string{"", ".", "..", "a/b", "a b", "a\x00", "ä", strings.Repeat("x", MaxID+1)} {
		if CheckID(id) == nil {
			t.Errorf("%q is accepted", id)
		}
	}
}

func FuzzHello(f *testing.F) {
	for _, line := range []string{"runv-agent 1\n", "runv-agent 99999999999\n", "runv-agent", ""} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		version, err := ParseHello(line)
		if err == nil && version == 0 {
			t.Errorf("%q has version 0", line)
		}
		if ReadHello(bytes.NewReader(line)) == nil && !bytes.Equal(line, AppendHello(nil)) {
			t.Errorf("%q is accepted", line)
		}
	})
}

func FuzzToken(f *testing.F) {
	f.Add([]byte("0123456789abcdef"))
	f.Add(make([]byte, TokenSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		token, err := ReadToken(bytes.NewReader(b))
		if err != nil {
			return
		}
		if token == (Token{}) || !bytes.HasPrefix(b, token[:]) {
			t.Errorf("%v gives %v", b, token)
		}
	})
}
