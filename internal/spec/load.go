package spec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ConfigName is the configuration's file name inside a bundle.
const ConfigName = "config.json"

// maxConfig bounds a config.json, in bytes.
const maxConfig = 16 << 20

// Load reads and parses the config.json of the bundle directory.
func Load(bundle string) (*specs.Spec, error) {
	path := filepath.Join(bundle, ConfigName)
	// Neither a FIFO without a writer nor a terminal is waited for.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("%s: no such file: give a bundle directory with --bundle, or make one with `runv spec`", path)
		}
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil {
		return nil, err
	} else if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxConfig {
		return nil, fmt.Errorf("%s: larger than %d MiB", path, maxConfig>>20)
	}
	s, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// Parse decodes a configuration. Errors name the line and column.
func Parse(data []byte) (*specs.Spec, error) {
	var s specs.Spec
	if err := decode(data, &s); err != nil {
		return nil, err
	}
	return &s, nil
}

// ParseProcess decodes the process object that exec takes from a file.
func ParseProcess(data []byte) (*specs.Process, error) {
	var p specs.Process
	if err := decode(data, &p); err != nil {
		return nil, err
	}
	return &p, nil
}

func decode(data []byte, v any) error {
	if len(bytes.TrimSpace(data)) == 0 {
		return errors.New("empty: expected a JSON object")
	}
	err := json.Unmarshal(data, v)
	if err == nil {
		return nil
	}
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		line, column := position(data, syntax.Offset)
		return fmt.Errorf("line %d, column %d (offset %d): invalid JSON: %w", line, column, syntax.Offset, err)
	case errors.As(err, &kind):
		line, column := position(data, kind.Offset)
		field := kind.Field
		if field == "" {
			field = "the document"
		}
		return fmt.Errorf("line %d, column %d (offset %d): %s is a JSON %s where a %s is expected", line, column, kind.Offset, clip(field), clip(kind.Value), kind.Type)
	}
	return fmt.Errorf("invalid JSON: %s", clip(err.Error()))
}

// clip shortens what an error quotes of a configuration.
func clip(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// position is the line and column, both from 1, of the byte before offset.
func position(data []byte, offset int64) (line, column int) {
	end := min(max(offset-1, 0), int64(len(data)))
	before := data[:end]
	return bytes.Count(before, []byte("\n")) + 1, int(end) - bytes.LastIndexByte(before, '\n')
}
