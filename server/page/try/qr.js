// qr returns text as a QR code (ISO/IEC 18004): rows of booleans, true where it is dark, without the quiet zone.
// It is in byte mode, at error correction level M, in the smallest of the versions 1 to 20. A text that is too
// long for those gives null.
function qr(text) {
  const data = new TextEncoder().encode(text)
  const fits = v => 4 + (v < 10 ? 8 : 16) + 8 * data.length <= 8 * qrDataBytes(v)
  let version = 1
  while (version <= 20 && !fits(version)) version++
  if (version > 20) return null
  const size = 4 * version + 17
  const dark = Array.from({ length: size }, () => Array(size).fill(false))
  const fixed = Array.from({ length: size }, () => Array(size).fill(false)) // modules that hold no data
  const set = (x, y, on) => { dark[y][x] = on; fixed[y][x] = true }
  qrPatterns(version, size, set)
  qrFormat(size, 0, set) // so that its modules are fixed
  qrFill(size, dark, fixed, qrInterleave(version, qrBytes(version, data)))
  let best = null, least = Infinity
  for (let mask = 0; mask < 8; mask++) {
    const masked = dark.map((row, y) => row.map((on, x) => on !== (!fixed[y][x] && qrMasks[mask](x, y))))
    qrFormat(size, mask, (x, y, on) => { masked[y][x] = on })
    const penalty = qrPenalty(masked)
    if (penalty < least) [best, least] = [masked, penalty]
  }
  return best
}

// For each version at level M: bytes of error correction in a block, and the number of blocks.
const qrCorrection = [0, 10, 16, 26, 18, 24, 16, 18, 22, 22, 26, 30, 22, 22, 24, 24, 28, 28, 26, 26, 26]
const qrBlocks = [0, 1, 1, 1, 2, 2, 4, 4, 4, 5, 5, 5, 8, 9, 9, 10, 10, 11, 13, 14, 16]

const qrMasks = [
  (x, y) => (x + y) % 2 === 0, (x, y) => y % 2 === 0, (x, y) => x % 3 === 0, (x, y) => (x + y) % 3 === 0,
  (x, y) => (Math.floor(x / 3) + Math.floor(y / 2)) % 2 === 0, (x, y) => x * y % 2 + x * y % 3 === 0,
  (x, y) => (x * y % 2 + x * y % 3) % 2 === 0, (x, y) => ((x + y) % 2 + x * y % 3) % 2 === 0,
]

// qrAllBytes is how many bytes a version has room for, error correction included.
function qrAllBytes(v) {
  let modules = (16 * v + 128) * v + 64
  if (v >= 2) {
    const n = Math.floor(v / 7) + 2
    modules -= (25 * n - 10) * n - 55
    if (v >= 7) modules -= 36
  }
  return modules >> 3
}

function qrDataBytes(v) { return qrAllBytes(v) - qrCorrection[v] * qrBlocks[v] }

// qrBytes packs the mode, the length and the data, and fills up the rest.
function qrBytes(version, data) {
  const bits = []
  const put = (value, n) => { while (n-- > 0) bits.push(value >> n & 1) }
  const room = 8 * qrDataBytes(version)
  put(4, 4)
  put(data.length, version < 10 ? 8 : 16)
  for (const byte of data) put(byte, 8)
  put(0, Math.min(4, room - bits.length))
  put(0, -bits.length & 7)
  for (let pad = 0xec; bits.length < room; pad ^= 0xec ^ 0x11) put(pad, 8)
  const bytes = []
  for (let i = 0; i < bits.length; i += 8) bytes.push(parseInt(bits.slice(i, i + 8).join(''), 2))
  return bytes
}

function qrMultiply(a, b) { // in GF(256) modulo 0x11d
  let product = 0
  for (let i = 7; i >= 0; i--) product = product << 1 ^ (product >> 7) * 0x11d ^ (b >> i & 1) * a
  return product
}

// qrRemainder is the Reed-Solomon code of a block.
function qrRemainder(block, degree) {
  let divisor = [...Array(degree - 1).fill(0), 1], root = 1
  for (let i = 0; i < degree; i++, root = qrMultiply(root, 2)) {
    divisor = divisor.map((c, j) => qrMultiply(c, root) ^ (j + 1 < degree ? divisor[j + 1] : 0))
  }
  let rest = Array(degree).fill(0)
  for (const byte of block) {
    const factor = byte ^ rest[0]
    rest = [...rest.slice(1), 0].map((r, i) => r ^ qrMultiply(divisor[i], factor))
  }
  return rest
}

// qrInterleave cuts the data into blocks, the shorter ones first, and takes a byte of each in turn: first of
// their data, then of their error correction.
function qrInterleave(version, bytes) {
  const count = qrBlocks[version], degree = qrCorrection[version], all = qrAllBytes(version)
  const short = Math.floor(all / count) - degree, shorts = count - all % count
  const blocks = []
  for (let i = 0, at = 0; i < count; i++) {
    const block = bytes.slice(at, at += short + (i < shorts ? 0 : 1))
    blocks.push([block, qrRemainder(block, degree)])
  }
  const result = []
  for (let i = 0; i <= short; i++) for (const [block] of blocks) if (i < block.length) result.push(block[i])
  for (let i = 0; i < degree; i++) for (const [, code] of blocks) result.push(code[i])
  return result
}

// qrPatterns draws what is the same in every code of a version.
function qrPatterns(version, size, set) {
  for (let i = 0; i < size; i++) {
    set(6, i, i % 2 === 0)
    set(i, 6, i % 2 === 0)
  }
  const squares = (cx, cy, reach, isDark) => {
    for (let y = cy - reach; y <= cy + reach; y++) {
      for (let x = cx - reach; x <= cx + reach; x++) {
        if (x >= 0 && y >= 0 && x < size && y < size) set(x, y, isDark(Math.max(Math.abs(x - cx), Math.abs(y - cy))))
      }
    }
  }
  for (const [x, y] of [[3, 3], [size - 4, 3], [3, size - 4]]) squares(x, y, 4, d => d !== 2 && d !== 4)
  const last = version === 1 ? 0 : Math.floor(version / 7) + 1
  const step = last && Math.ceil((size - 13) / (2 * last)) * 2
  const at = i => i === 0 ? 6 : size - 7 - (last - i) * step
  for (let i = 0; last && i <= last; i++) {
    for (let j = 0; j <= last; j++) {
      const inFinder = i === 0 && j === 0 || i === 0 && j === last || i === last && j === 0
      if (!inFinder) squares(at(i), at(j), 2, d => d !== 1)
    }
  }
  if (version < 7) return
  let rest = version
  for (let i = 0; i < 12; i++) rest = rest << 1 ^ (rest >> 11) * 0x1f25
  for (let i = 0, bits = version << 12 | rest; i < 18; i++) {
    const a = size - 11 + i % 3, b = Math.floor(i / 3)
    set(a, b, (bits >> i & 1) === 1)
    set(b, a, (bits >> i & 1) === 1)
  }
}

// qrFormat draws the level, which is M, and the mask: twice, and the dark module.
function qrFormat(size, mask, set) {
  let rest = mask
  for (let i = 0; i < 10; i++) rest = rest << 1 ^ (rest >> 9) * 0x537
  const bits = (mask << 10 | rest) ^ 0x5412
  for (let i = 0; i < 15; i++) {
    const on = (bits >> i & 1) === 1
    if (i < 8) set(8, i < 6 ? i : i + 1, on)
    else set(i === 8 ? 7 : 14 - i, 8, on)
    if (i < 8) set(size - 1 - i, 8, on)
    else set(8, size - 15 + i, on)
  }
  set(8, size - 8, true)
}

// qrFill writes the bytes, in columns of two, upwards and downwards in turn.
function qrFill(size, dark, fixed, bytes) {
  let i = 0
  for (let right = size - 1; right >= 1; right -= 2) {
    if (right === 6) right = 5
    for (let n = 0; n < size; n++) {
      const y = (right + 1 & 2) === 0 ? size - 1 - n : n
      for (const x of [right, right - 1]) {
        if (!fixed[y][x] && i < 8 * bytes.length) dark[y][x] = (bytes[i >> 3] >> 7 - (i++ & 7) & 1) === 1
      }
    }
  }
}

// qrPenalty rates how hard a code is to read: by runs, squares, patterns like a finder's, and its balance.
function qrPenalty(m) {
  const size = m.length
  let penalty = 0, darks = 0
  const lines = [...m, ...m.map((_, x) => m.map(row => row[x]))]
  for (const text of lines.map(line => line.map(Number).join(''))) {
    for (const run of text.match(/0{5,}|1{5,}/g) ?? []) penalty += run.length - 2
    for (const alike of ['10111010000', '00001011101']) {
      for (let i = text.indexOf(alike); i >= 0; i = text.indexOf(alike, i + 1)) penalty += 40
    }
  }
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      darks += m[y][x]
      if (x && y && m[y][x] === m[y - 1][x] && m[y][x] === m[y][x - 1] && m[y][x] === m[y - 1][x - 1]) penalty += 3
    }
  }
  return penalty + 10 * Math.floor(Math.abs(20 * darks - 10 * size * size) / (size * size))
}
