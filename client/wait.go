package client

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"
)

// waitMargin is how much time has to be left for a wait to be asked for once more. A
// node answers 250 ms before the end that it has not happened yet.
const waitMargin = 500 * time.Millisecond

// wait is run for a call that is answered once something has happened, or that it has
// not when the time of the attempt ends. No attempt lasts as long as the caller's
// deadline: one at a node that died in silence would be the only one. So it is asked
// for again, anywhere, until it has happened or the time is over. Then the caller
// hears how things stood, and not that the last node asked did not answer.
func (cl *call) wait(ctx context.Context, reply any) error {
	clk := cl.c.clk
	over := func() bool {
		deadline, ok := ctx.Deadline()
		return ctx.Err() != nil || ok && deadline.Sub(clk.Now()) < waitMargin
	}
	out, ok := reply.(interface {
		proto.Message
		GetDone() bool
	})
	var known proto.Message
	for known == nil || !over() {
		begin := clk.Now()
		err := cl.run(ctx, reply)
		switch {
		case err != nil && known != nil && over():
			proto.Reset(out)
			proto.Merge(out, known)
			return nil
		case err != nil, !ok, out.GetDone(), over():
			return err
		}
		known = proto.Clone(out)
		if clk.Since(begin) < maxPassing { // the node did not wait
			_ = clk.Sleep(ctx, maxPassing) // when ctx ends, the time is over
		}
	}
	return nil
}
