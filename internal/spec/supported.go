package spec

import (
	"maps"
	"slices"
)

// MountOptions lists the mount options that are not data for a file system.
func MountOptions() []string { return slices.Sorted(maps.Keys(mountOptions)) }

// Capabilities lists the capabilities a container may have.
func Capabilities() []string { return slices.Sorted(maps.Keys(capabilityNames)) }
