//go:build unix && !linux

package hsm

import (
	"context"
	"errors"
)

func (s *Server) startOpenCryptoki(context.Context) error {
	return errors.New("openCryptoki's token is started on Linux only")
}
