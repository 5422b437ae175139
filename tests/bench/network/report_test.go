package main

import (
	"bytes"
	"testing"
)

func TestReport(t *testing.T) {
	native := result{Name: "native", Figures: parse("stream\t200.0\tMiB/s\nnoise\nanswer\t10.0\tus\n")}
	guest := result{Name: "runv", Figures: parse("stream\t150.0\tMiB/s\n"), Err: "status 1"}
	var out bytes.Buffer
	table(&out, []result{native, guest})
	want := `sockets        native  runv   ÷ native
stream, MiB/s  200.0   150.0  0.75
answer, us     10.0    -      -
runv: status 1
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}
