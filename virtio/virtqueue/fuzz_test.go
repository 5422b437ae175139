package virtqueue_test

import (
	"encoding/binary"
	"testing"

	"runv.dev/runv/virtio/virtqueue"
)

// FuzzQueue has the device's side work on rings and tables whose bytes are the
// fuzzer's, but for what it takes to get anywhere.
func FuzzQueue(f *testing.F) {
	desc := func(addr uint64, n uint32, flags, next uint16) []byte {
		b := binary.LittleEndian.AppendUint64(nil, addr)
		b = binary.LittleEndian.AppendUint32(b, n)
		b = binary.LittleEndian.AppendUint16(b, flags)
		return binary.LittleEndian.AppendUint16(b, next)
	}
	cat := func(parts ...[]byte) (all []byte) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	const table = ringAddr + 2*16
	f.Add(uint8(3), uint8(3), uint16(1), cat(desc(dataAddr, 8, 1, 1), desc(dataAddr, 8, 2, 0)))
	f.Add(uint8(3), uint8(3), uint16(1), cat(desc(dataAddr, 8, 1, 1), desc(dataAddr, 8, 1, 0)))
	f.Add(uint8(2), uint8(2), uint16(2), cat(desc(table, 32, 4, 0), desc(0, 0, 0, 0), desc(dataAddr, 8, 3, 1), desc(dataAddr, 8, 2, 0)))
	f.Add(uint8(2), uint8(2), uint16(1), cat(desc(dataAddr, 1, 1, 1), desc(table, 16, 4, 0), desc(table, 16, 4, 0)))
	f.Add(uint8(0), uint8(0), uint16(1), desc(1<<63, 1<<31, 2, 0))
	f.Add(uint8(0), uint8(1), uint16(3), desc(0, 0, 0, 0))
	f.Fuzz(func(t *testing.T, order, features uint8, idx uint16, ring []byte) {
		size := uint16(1) << (order % 7)
		q, r := newQueue(t, size, features&1 != 0, features&2 != 0)
		ring = ring[:min(len(ring), 0x2000)]
		if err := r.Mem.WriteAt(ring, ringAddr); err != nil {
			t.Fatal(err)
		}
		r.SetAvailableIdx(idx)
		var heads []uint16
		for {
			c, ok, err := q.Pop()
			if err != nil {
				if ok || c.Readable != nil || c.Writable != nil {
					t.Fatal("a chain along with an error")
				}
				if _, _, again := q.Pop(); again != err {
					t.Fatalf("error %v, then %v", err, again)
				}
				return
			}
			if !ok {
				break
			}
			if c.Head >= size {
				t.Fatalf("head %d of %d", c.Head, size)
			}
			if len(heads) >= int(size) {
				t.Fatal("more chains in flight than entries")
			}
			heads = append(heads, c.Head)
			total := 0
			for _, b := range append(c.Readable, c.Writable...) {
				if len(b) == 0 || cap(b) != len(b) {
					t.Fatalf("buffer of %d bytes, capacity %d", len(b), cap(b))
				}
				total += len(b)
			}
			if total > virtqueue.MaxChainBytes || total != virtqueue.Len(c.Readable)+virtqueue.Len(c.Writable) {
				t.Fatalf("chain of %d bytes", total)
			}
			if len(c.Readable)+len(c.Writable) > 1024+int(size) {
				t.Fatalf("chain of %d buffers", len(c.Readable)+len(c.Writable))
			}
		}
		if len(heads) != int(idx) {
			t.Fatalf("%d chains for an index of %d", len(heads), idx)
		}
		for i, h := range heads {
			if _, err := q.Push(h, uint32(h)); err != nil {
				t.Fatal(err)
			}
			if r.UsedIdx() != uint16(i+1) {
				t.Fatalf("used index %d after %d pushes", r.UsedIdx(), i+1)
			}
		}
		if _, err := q.SetNotify(true); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzCopy compares the readers and writers with plain slices.
func FuzzCopy(f *testing.F) {
	f.Add([]byte("\x03\x00\x05\x01"), []byte("hello, world"), uint8(4))
	f.Add([]byte(""), []byte("x"), uint8(0))
	f.Fuzz(func(t *testing.T, lengths, data []byte, chunk uint8) {
		var buffers [][]byte
		size := 0
		for _, n := range lengths {
			buffers = append(buffers, make([]byte, n))
			size += int(n)
		}
		w := virtqueue.NewWriter(buffers)
		rest := data
		for len(rest) > 0 {
			n := min(int(chunk)+1, len(rest))
			m, err := w.Write(rest[:n])
			if (err != nil) != (m < n) {
				t.Fatalf("Write = %d of %d, %v", m, n, err)
			}
			rest = rest[m:]
			if err != nil {
				break
			}
		}
		want := data[:min(len(data), size)]
		if int(w.Written()) != len(want) || w.Len() != size-len(want) {
			t.Fatalf("%d written, %d left, of %d", w.Written(), w.Len(), size)
		}
		got := make([]byte, size)
		if n := virtqueue.CopyOut(got, buffers); n != size {
			t.Fatalf("CopyOut = %d, want %d", n, size)
		}
		if string(got[:len(want)]) != string(want) {
			t.Fatalf("wrote %q, found %q", want, got)
		}
		r := virtqueue.NewReader(buffers)
		skipped := r.Skip(int(chunk))
		if skipped != min(int(chunk), size) || r.Len() != size-skipped {
			t.Fatalf("Skip(%d) = %d, %d left of %d", chunk, skipped, r.Len(), size)
		}
		again := make([]byte, size+1)
		n, err := r.Read(again)
		if n != size-skipped || (err != nil) != (n == 0) || string(again[:n]) != string(got[skipped:]) {
			t.Fatalf("Read = %q, %v, want %q", again[:n], err, got[skipped:])
		}
	})
}
