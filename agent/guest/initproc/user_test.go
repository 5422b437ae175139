package initproc

import (
	"slices"
	"testing"
)

func TestEnvironment(t *testing.T) {
	for _, tt := range []struct{ in, want []string }{
		{[]string{"A=1", "HOME=/h", "B=2"}, []string{"A=1", "HOME=/h", "B=2"}},
		{[]string{"A=1", "HOME=/h", "A=2", "A="}, []string{"HOME=/h", "A="}},
		{[]string{"HOME=/h", "HOME="}, []string{"HOME=/h"}},
		{[]string{"HOME=", "A=b=c"}, []string{"A=b=c", "HOME=/"}},
		{nil, []string{"HOME=/"}},
	} {
		const nobody = 987654321
		if got := environment(tt.in, nobody); !slices.Equal(got, tt.want) {
			t.Errorf("environment(%q) = %q; want %q", tt.in, got, tt.want)
		}
	}
}
