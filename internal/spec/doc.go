// Package spec turns an OCI bundle's config.json into a Plan: what will be done
// on the host, what the machine looks like, and what the guest is asked to do.
//
// Planning is pure: it looks at the configuration and at a few facts about the
// host that it is given, never at the file system. Every property of the OCI
// runtime specification 1.3 for Linux is planned, or refused with an error that
// names it; the few that may be ignored become warnings. docs/config.md has the
// table.
package spec
