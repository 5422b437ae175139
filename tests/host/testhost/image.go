package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
)

// uncompressedImage returns the ELF kernel inside a bzImage, made once beside
// it: QEMU enters that directly, and an emulated processor need not decompress
// it at every boot. A bzImage in a format unknown here serves as it is.
func uncompressedImage(bzImage, elf string) (string, error) {
	if _, err := os.Stat(elf); err == nil {
		return elf, nil
	}
	b, err := os.ReadFile(bzImage)
	if err != nil {
		return "", err
	}
	payload, err := bzImagePayload(b)
	if err != nil {
		return "", fmt.Errorf("%s: %w", bzImage, err)
	}
	var tool, pkg string
	var args []string
	switch {
	case bytes.HasPrefix(payload, []byte("\x28\xb5\x2f\xfd")):
		tool, pkg, args = "zstd", "zstd", []string{"-dc"}
	case bytes.HasPrefix(payload, []byte("\xfd7zXZ\x00")):
		tool, pkg, args = "xz", "xz-utils", []string{"-dc", "--single-stream"}
	default:
		return bzImage, nil
	}
	if err := ensureTool(tool, pkg); err != nil {
		return "", err
	}
	cmd := exec.Command(tool, args...)
	cmd.Stdin = bytes.NewReader(payload)
	// The uncompressed size follows the payload, which the tool may grumble
	// about; whether it did its work shows in the output.
	out, err := cmd.Output()
	if !bytes.HasPrefix(out, []byte("\x7fELF")) {
		return "", fmt.Errorf("%s: %s gave no ELF file (%v)", bzImage, tool, err)
	}
	if want := binary.LittleEndian.Uint32(payload[len(payload)-4:]); len(out) != int(want) {
		return "", fmt.Errorf("%s: %s gave %d bytes, want %d", bzImage, tool, len(out), want)
	}
	if err := os.WriteFile(elf+".new", out, 0o644); err != nil {
		return "", err
	}
	return elf, os.Rename(elf+".new", elf)
}

// bzImagePayload finds the compressed kernel, with the four bytes after it
// that hold the uncompressed size (Linux x86 boot protocol 2.08, setup_sects,
// payload_offset, payload_length).
func bzImagePayload(b []byte) ([]byte, error) {
	if len(b) < 0x250 || string(b[0x202:0x206]) != "HdrS" || binary.LittleEndian.Uint16(b[0x206:]) < 0x208 {
		return nil, errors.New("not a bzImage of boot protocol 2.08")
	}
	sectors := int(b[0x1f1])
	if sectors == 0 {
		sectors = 4
	}
	start := (sectors+1)*512 + int(binary.LittleEndian.Uint32(b[0x248:]))
	end := start + int(binary.LittleEndian.Uint32(b[0x24c:]))
	if start > end || end > len(b) || end-start < 8 {
		return nil, errors.New("payload lies outside the bzImage")
	}
	return b[start:end], nil
}

func ensureTool(name, pkg string) error {
	if _, err := lookTool(name); err == nil {
		return nil
	}
	return aptInstall("", pkg)
}
