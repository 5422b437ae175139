// Package protocol is what the host and the agent in the guest agree on: ports,
// the hello line, the token that opens a stdio stream, and the messages of the
// control connection (agent.proto).
//
// The agent listens on ControlPort and StreamPort of the guest. When it does,
// it connects to HelloPort of the host, writes the hello line and closes the
// connection; no other connection goes from the guest to the host. The host
// then speaks ttrpc to ControlPort and opens one connection to StreamPort for
// each stdio stream.
package protocol

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-ttrpc_out=. --go-ttrpc_opt=paths=source_relative agent.proto

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// Version is the version of the protocol. Two sides with different versions do
// not talk to each other: agent and runtime come from one build.
const Version = 1

// vsock addresses.
const (
	// HostCID is the context id of the host, as the guest sees it.
	HostCID = 2
	// HelloPort is the port of the host that gets the hello line.
	HelloPort = 1024
	// ControlPort is the port of the guest with the ttrpc service.
	ControlPort = 1024
	// StreamPort is the port of the guest with the stdio streams.
	StreamPort = 1025
)

// MaxMessage is the most bytes a ttrpc message may have.
const MaxMessage = 4 << 20

// MaxID is the most bytes an id of a container or process may have.
const MaxID = 255

// LogPort is the name of the virtio console port that takes the agent's log.
const LogPort = "runv.log"

const helloPrefix = "runv-agent "

// maxHello bounds the hello line, its newline included.
const maxHello = 64

// Errors of the parsers in this package.
var (
	ErrHello = errors.New("malformed hello from the agent")
	ErrToken = errors.New("malformed stream token")
)

// AppendHello appends the hello line of this version, newline included.
func AppendHello(b []byte) []byte {
	b = append(b, helloPrefix...)
	b = strconv.AppendUint(b, Version, 10)
	return append(b, '\n')
}

// ParseHello has the version of a hello line, which includes its newline.
func ParseHello(line []byte) (version uint32, err error) {
	number, found := bytes.CutPrefix(line, []byte(helloPrefix))
	if !found {
		return 0, ErrHello
	}
	number, found = bytes.CutSuffix(number, []byte{'\n'})
	if !found || len(number) == 0 || number[0] == '0' {
		return 0, ErrHello
	}
	for _, c := range number {
		if c < '0' || c > '9' {
			return 0, ErrHello
		}
	}
	v, err := strconv.ParseUint(string(number), 10, 32)
	if err != nil {
		return 0, ErrHello
	}
	return uint32(v), nil
}

// ReadHello reads a hello line, never more than its few bytes, and checks that
// the version is ours. What follows the line is an error too. The caller sets a
// deadline on r.
func ReadHello(r io.Reader) error {
	line, err := io.ReadAll(io.LimitReader(r, maxHello+1))
	if err != nil {
		return fmt.Errorf("read hello: %w", err)
	}
	if len(line) > maxHello {
		return ErrHello
	}
	v, err := ParseHello(line)
	if err != nil {
		return err
	}
	if v != Version {
		return fmt.Errorf("the agent speaks protocol version %d, this runtime %d", v, Version)
	}
	return nil
}

// TokenSize is the length of a Token in bytes.
const TokenSize = 16

// Token names one stdio stream. It is the first thing on the stream.
type Token [TokenSize]byte

// ParseToken checks a token from a message. An empty one is the zero Token,
// which stands for no stream.
func ParseToken(b []byte) (Token, error) {
	var t Token
	if len(b) == 0 {
		return t, nil
	}
	if len(b) != TokenSize {
		return t, ErrToken
	}
	copy(t[:], b)
	if t == (Token{}) {
		return t, ErrToken
	}
	return t, nil
}

// ReadToken reads the token a stream starts with. The caller sets a deadline.
func ReadToken(r io.Reader) (Token, error) {
	var t Token
	if _, err := io.ReadFull(r, t[:]); err != nil {
		return t, fmt.Errorf("read stream token: %w", err)
	}
	if t == (Token{}) {
		return t, ErrToken
	}
	return t, nil
}

// CheckID tells whether id can name a container or process.
func CheckID(id string) error {
	if id == "" || len(id) > MaxID {
		return fmt.Errorf("invalid id %.32q: 1 to %d characters", id, MaxID)
	}
	for i := 0; i < len(id); i++ {
		c := id[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9',
			c == '_', c == '+', c == '-', c == '.':
		default:
			return fmt.Errorf("invalid id %.32q: character %q", id, c)
		}
	}
	if id == "." || id == ".." {
		return fmt.Errorf("invalid id %q", id)
	}
	return nil
}
