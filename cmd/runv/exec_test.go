package main

import (
	"reflect"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestParseUser(t *testing.T) {
	for _, tt := range []struct {
		in       string
		uid, gid uint32
		ok       bool
	}{
		{"0", 0, 7, true},
		{"1000", 1000, 7, true},
		{"1000:0", 1000, 0, true},
		{"4294967294:4294967294", 4294967294, 4294967294, true},
		{in: "4294967295"}, {in: "1:4294967295"}, {in: "-1"}, {in: "root"}, {in: "1:"}, {in: ":1"}, {in: "1:2:3"}, {in: ""},
	} {
		u := specs.User{UID: 5, GID: 7}
		err := parseUser(&u, tt.in)
		if (err == nil) != tt.ok || tt.ok && (u.UID != tt.uid || u.GID != tt.gid) {
			t.Errorf("parseUser(%q) = %d:%d, %v; want %d:%d, %v", tt.in, u.UID, u.GID, err, tt.uid, tt.gid, tt.ok)
		}
	}
}

func TestAddCapabilities(t *testing.T) {
	have, add := []string{"CAP_KILL"}, []string{"CAP_CHOWN"}
	both := []string{"CAP_KILL", "CAP_CHOWN"}
	for _, tt := range []struct{ in, want *specs.LinuxCapabilities }{
		{nil, &specs.LinuxCapabilities{Bounding: add, Effective: add, Permitted: add}},
		{&specs.LinuxCapabilities{Bounding: have, Ambient: have}, &specs.LinuxCapabilities{Bounding: both, Effective: add, Permitted: add, Ambient: have}},
		{&specs.LinuxCapabilities{Inheritable: have, Ambient: have}, &specs.LinuxCapabilities{Bounding: add, Effective: add, Permitted: add, Inheritable: have, Ambient: both}},
	} {
		if got := addCapabilities(tt.in, add); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("got %+v; want %+v", got, tt.want)
		}
	}
}
