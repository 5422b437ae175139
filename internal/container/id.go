package container

import "fmt"

// maxID is the most bytes an id may have: it becomes a directory's name, and
// the guest's agent has the same bound.
const maxID = 255

// CheckID tells whether id can name a container. The rules are runc's.
func CheckID(id string) error {
	if id == "" {
		return fmt.Errorf("container id is empty: give one as the last argument")
	}
	if len(id) > maxID {
		return fmt.Errorf("container id %.32q…: longer than %d characters", id, maxID)
	}
	for i := 0; i < len(id); i++ {
		c := id[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9',
			c == '_', c == '+', c == '-', c == '.':
		default:
			return fmt.Errorf("container id %q: only letters, digits and _ + - . are allowed", id)
		}
	}
	if id == "." || id == ".." {
		return fmt.Errorf("container id %q is the name of a directory", id)
	}
	return nil
}
