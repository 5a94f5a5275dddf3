//go:build node

package page

import (
	"encoding/json"
	"image"
	"image/color"
	"os/exec"
	"strings"
	"testing"

	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"
)

// TestQR: a reader that nobody here wrote reads every code that qr.js draws: of each version with the shortest
// and the longest text, with each mask, and beyond ASCII.
func TestQR(t *testing.T) {
	texts := []string{"", "a", "http://192.168.1.20:8080/?relayId=k3v9-q2mx", "https://relay.example/?relayId=" + strings.Repeat("%F0%9F%A6%8A", 9), "é+b 🦊"}
	longest := []int{14, 26, 42, 62, 84, 106, 122, 152, 180, 213, 251, 287, 331, 362, 412, 450, 504, 560, 624, 666} // ISO/IEC 18004, table 7
	for _, n := range longest {
		texts = append(texts, strings.Repeat("relay/", 200)[:n], strings.Repeat("x7", 400)[:n+1])
	}
	for i := range 64 {
		texts = append(texts, "http://10.0.0."+string(rune('A'+i))+"/?relayId=room")
	}
	in, _ := json.Marshal(texts)
	script := read("try/qr.js") + "\nconsole.log(JSON.stringify(JSON.parse(process.argv[1]).map(qr)))"
	out, err := exec.Command("node", "-e", script, string(in)).Output()
	if err != nil {
		t.Fatal(err)
	}
	var codes [][][]bool
	if err := json.Unmarshal(out, &codes); err != nil || len(codes) != len(texts) {
		t.Fatalf("%d codes, %v; want %d", len(codes), err, len(texts))
	}
	for i, text := range texts {
		version := 0
		for version < len(longest) && len(text) > longest[version] {
			version++
		}
		switch code := codes[i]; {
		case version == len(longest):
			if code != nil {
				t.Errorf("%d bytes: a code of %d modules, want none", len(text), len(code))
			}
		case len(code) != 4*version+21:
			t.Errorf("%d bytes: %d modules, want version %d", len(text), len(code), version+1)
		default:
			if got, err := decode(code); err != nil || got != text {
				t.Errorf("version %d, %q: read as %q, %v", version+1, text, got, err)
			}
		}
	}
}

// decode reads a code as a picture with a quiet zone of four modules.
func decode(code [][]bool) (string, error) {
	const scale, quiet = 3, 4
	side := scale * (len(code) + 2*quiet)
	img := image.NewGray(image.Rect(0, 0, side, side))
	for y := range side {
		for x := range side {
			row, column := y/scale-quiet, x/scale-quiet
			dark := row >= 0 && column >= 0 && row < len(code) && column < len(code) && code[row][column]
			if !dark {
				img.SetGray(x, y, color.Gray{Y: 255})
			}
		}
	}
	bitmap, err := gozxing.NewBinaryBitmapFromImage(img)
	if err != nil {
		return "", err
	}
	result, err := qrcode.NewQRCodeReader().Decode(bitmap, map[gozxing.DecodeHintType]any{
		gozxing.DecodeHintType_PURE_BARCODE: true, gozxing.DecodeHintType_CHARACTER_SET: "UTF-8",
	})
	if err != nil {
		return "", err
	}
	return result.GetText(), nil
}
