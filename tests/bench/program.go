package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// The C program that containers build.
const (
	programFiles     = 12
	programFunctions = 10 // of each file
)

// makefile builds what lies beside it.
const makefile = `objects := $(patsubst %.c,%.o,$(wildcard *.c))
program: $(objects)
	gcc -o $@ $^
%.o: %.c program.h
	gcc -O1 -Wall -Werror -c -o $@ $<
clean:
	rm -f program $(objects)
`

// writeProgram writes a C program of some files into a directory.
func writeProgram(dir string) error {
	var header strings.Builder
	header.WriteString("#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n")
	files := map[string]string{"Makefile": makefile}
	calls := ""
	for i := range programFiles {
		var c strings.Builder
		c.WriteString("#include \"program.h\"\n")
		for k := range programFunctions {
			fmt.Fprintf(&header, "unsigned f%d_%d(const char *);\n", i, k)
			fmt.Fprintf(&c, `
unsigned f%d_%d(const char *s)
{
	size_t i, n = strlen(s);
	unsigned sum = %d;
	char *copy = malloc(n + 1);

	if (!copy)
		abort();
	memcpy(copy, s, n + 1);
	for (i = 0; i < n; i++)
		sum = sum * %d + (unsigned char)copy[n - 1 - i];
	free(copy);
	return sum;
}
`, i, k, k, 2*(i*programFunctions+k)+1)
			calls += fmt.Sprintf("\tsum += f%d_%d(argv[0]);\n", i, k)
		}
		files[fmt.Sprintf("file%d.c", i)] = c.String()
	}
	files["program.h"] = header.String()
	files["main.c"] = "#include \"program.h\"\n\nint main(int argc, char **argv)\n{\n\tunsigned sum = (unsigned)argc;\n\n" +
		calls + "\tprintf(\"%u\\n\", sum);\n\treturn 0;\n}\n"
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
