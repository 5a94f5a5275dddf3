const $ = (selector, root = document) => root.querySelector(selector)
const encoder = new TextEncoder()
const maxRows = 300 // in a log; older ones go
const maxShown = 1000 // characters of a text
const maxShownBytes = 256

const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit', fractionalSecondDigits: 3 })

// closeMeanings says what the relay means by each code.
const closeMeanings = {
  1000: 'ended normally', 1001: 'the relay stops, or nothing came from this peer for too long',
  1002: 'violation of the protocol', 1005: 'without a code', 1006: 'without a close frame', 1007: 'not UTF-8',
  1008: 'faster than allowed for ten seconds', 1009: 'message too large', 1013: 'the relay is short of memory',
}

function count(n, noun) { return `${n.toLocaleString('en')} ${noun}${n === 1 ? '' : 's'}` }

function size(bytes) { return bytes < 10_000 ? `${bytes} B` : bytes < 1 << 20 ? `${(bytes / 1024).toFixed(1)} KiB` : `${(bytes / 1048576).toFixed(1)} MiB` }

function hex(bytes) {
  const shown = Array.from(bytes.subarray(0, maxShownBytes), b => b.toString(16).padStart(2, '0')).join(' ')
  const rest = bytes.length - maxShownBytes
  return rest > 0 ? `${shown} … ${count(rest, 'more byte')}` : shown
}

function shorten(text) {
  const rest = text.length - maxShown
  return rest > 0 ? `${text.slice(0, maxShown)} … ${count(rest, 'more character')}` : text
}

// parseHex reads bytes such as "de ad be ef". It returns null if the text is something else.
function parseHex(text) {
  const digits = text.replace(/[\s,:]|0x/gi, '')
  if (digits.length % 2 || /[^0-9a-f]/i.test(digits)) return null
  return Uint8Array.from(digits.match(/../g) ?? [], pair => parseInt(pair, 16))
}

// describe tells what a message is to the relay, how many bytes it has, and how it is shown.
function describe(data) {
  if (typeof data !== 'string') {
    const bytes = new Uint8Array(data)
    return { kind: 'binary', bytes: bytes.length, text: hex(bytes) }
  }
  let kind = data === 'ping' || data === 'pong' ? data : 'text'
  if (data[0] === '{' && data.includes('targetPeerId')) {
    try {
      if (JSON.parse(data).targetPeerId) kind = 'direct'
    } catch { /* a text like any other */ }
  }
  return { kind, bytes: encoder.encode(data).length, text: shorten(data) }
}

// Log is the list of what a peer has sent, received and met. It is drawn once per frame, and keeps only its
// last rows, so that no flood makes the page grow.
class Log {
  #box; #list; #waiting = []; #drawn = false; #gone = 0

  constructor(box) {
    this.#box = box
    this.#list = $('ol', box)
  }

  // add appends a row: way is sent, received or event.
  add(way, { kind = '', bytes = null, text, mood = '' }) {
    this.#waiting.push({ time: new Date(), way, kind, bytes, text, mood })
    if (this.#waiting.length > maxRows) {
      this.#waiting.shift()
      this.#gone++
    }
    if (!this.#drawn) requestAnimationFrame(() => this.#draw())
    this.#drawn = true
  }

  clear() {
    this.#waiting = []
    this.#gone = 0
    this.#list.replaceChildren()
    this.#draw()
  }

  #draw() {
    this.#drawn = false
    const atEnd = this.#box.scrollHeight - this.#box.scrollTop - this.#box.clientHeight < 40
    this.#list.append(...this.#waiting.map(row))
    this.#waiting = []
    for (; this.#list.childElementCount > maxRows; this.#gone++) this.#list.firstElementChild.remove()
    $('.empty', this.#box).hidden = this.#list.childElementCount > 0
    $('.dropped', this.#box).hidden = this.#gone === 0
    $('.dropped', this.#box).textContent = `${count(this.#gone, 'older row')} not shown`
    if (atEnd) this.#box.scrollTop = this.#box.scrollHeight
  }
}

const ways = { sent: ['→', 'sent'], received: ['←', 'received'], event: ['·', ''] }

// row makes the element of one row. Whatever a peer has sent gets into it as text.
function row({ time, way, kind, bytes, text, mood }) {
  const li = document.createElement('li')
  li.className = `${way} ${mood} ${kind === 'ping' || kind === 'pong' ? 'beat' : ''}`
  const add = (name, content) => {
    const span = document.createElement('span')
    span.className = name
    span.textContent = content
    li.append(span)
    return span
  }
  const [arrow, word] = ways[way]
  add('time', clock.format(time))
  const mark = add('way', arrow)
  if (word) {
    mark.setAttribute('role', 'img')
    mark.setAttribute('aria-label', word)
  } else {
    mark.setAttribute('aria-hidden', 'true')
  }
  if (way !== 'event') {
    add('kind', kind)
    add('size', size(bytes))
  }
  add('text', text)
  return li
}

// Peer is one of the two: its socket, its log and its controls.
class Peer {
  #root; #ask; #log; #ws = null; #sent = 0; #received = 0

  // ask returns the relayId and the secret as they stand in the page.
  constructor(root, name, peerId, ask) {
    this.#root = root
    this.#ask = ask
    this.#log = new Log($('.log', root))
    $('h2', root).textContent = name
    $('.log', root).setAttribute('aria-label', `Messages of ${name.toLowerCase()}`)
    root.setAttribute('aria-label', name)
    this.field('peerId').value = peerId
    this.#listen()
    this.#show('idle', 'Not connected')
  }

  field(name) { return $(`[name=${name}]`, this.#root) }

  get peerId() { return this.field('peerId').value }

  get idle() { return this.#ws === null }

  #listen() {
    const on = (name, does) => this.field(name).addEventListener('click', does)
    $('.identity', this.#root).addEventListener('submit', e => {
      e.preventDefault()
      if (this.idle) this.connect()
      else this.#ws.close(1000)
    })
    on('again', () => this.connect())
    on('ping', () => this.#send('ping'))
    on('clear', () => this.#log.clear())
    $('.composer', this.#root).addEventListener('submit', e => {
      e.preventDefault()
      this.#compose()
    })
    this.field('message').addEventListener('keydown', e => {
      if (e.key !== 'Enter' || e.shiftKey || e.isComposing) return
      e.preventDefault()
      this.#compose()
    })
    this.field('kind').addEventListener('change', () => this.#kindChanged())
  }

  #kindChanged() {
    const kind = this.field('kind').value
    $('.target', this.#root).hidden = kind !== 'direct'
    $('.what', this.#root).textContent = kind === 'binary' ? 'Bytes in hexadecimal' : 'Message'
    this.field('message').placeholder = kind === 'binary' ? 'de ad be ef' : ''
    this.#complain('')
  }

  connect() {
    const { relayId, secret } = this.#ask()
    const peerId = this.peerId
    for (const [name, id] of [['relayId', relayId], ['peerId', peerId]]) {
      const bytes = encoder.encode(id).length
      if (bytes < 1 || bytes > 1024) return this.#event(`${name} must have 1 to 1,024 bytes, not ${bytes}`, 'bad')
    }
    this.#ws?.close(1000)
    const url = `${location.protocol === 'https:' ? 'wss:' : 'ws:'}//${location.host}/v1?${new URLSearchParams({ relayId, peerId })}`
    let ws
    try {
      ws = secret ? new WebSocket(url, [secret]) : new WebSocket(url)
    } catch (e) {
      this.#ws = null
      this.#show('failed', 'Not connected')
      return this.#event(secret ? 'the secret has a character that no browser can send' : e.message, 'bad')
    }
    this.#ws = ws
    ws.binaryType = 'arraybuffer'
    const began = performance.now()
    let opened = false
    this.#show('connecting', 'Connecting…')
    ws.onopen = () => {
      opened = true
      this.#event(`connected as ${shorten(peerId)} in ${Math.round(performance.now() - began)} ms`)
      if (this.#ws === ws) this.#show('open', 'Connected')
    }
    ws.onmessage = e => this.#take(ws, e.data)
    ws.onclose = e => this.#closed(ws, e, opened)
  }

  #take(ws, data) {
    this.#log.add('received', describe(data))
    this.#received++
    this.#counts()
    if (data === 'ping' && this.field('answers').checked && ws.readyState === WebSocket.OPEN) this.#put(ws, 'pong')
  }

  #closed(ws, { code, reason }, opened) {
    const last = this.#ws === ws
    const own = opened && code === 1000
    if (opened) this.#event(`closed ${code}: ${reason || closeMeanings[code] || 'a code of the other side'}`, own ? '' : 'bad')
    else this.#event('refused, or not reached: closed 1006. A browser does not say why.', 'bad')
    if (!last) return
    this.#ws = null
    this.#show(own ? 'idle' : 'failed', opened ? `Closed ${code}` : 'Refused')
    if (!opened) this.#explain()
  }

  // explain names what may have been the reason of a refusal.
  async #explain() {
    const { needsSecret, secret } = this.#ask()
    try {
      const ready = await fetch('/readyz', { cache: 'no-store' })
      if (!ready.ok) return this.#event(`the relay is not ready: ${(await ready.text()).trim().split('\n').join(', ')}`, 'bad')
    } catch {
      return this.#event('the relay does not answer', 'bad')
    }
    const reasons = ['a limit is reached', `ALLOWED_ORIGINS does not list ${location.origin}`]
    if (needsSecret) reasons.unshift(secret ? 'the secret is wrong' : 'the secret is missing')
    this.#event(`most likely ${reasons.join(', or ')}`, 'bad')
  }

  #compose() {
    const kind = this.field('kind').value, message = this.field('message').value, target = this.field('target').value
    let data = message
    if (kind === 'binary') data = parseHex(message)
    if (kind === 'direct') data = JSON.stringify({ targetPeerId: target, text: message })
    if (data === null) return this.#complain('Two hexadecimal digits for each byte, please.')
    if (kind === 'direct' && !target) return this.#complain('Which peer is it for?')
    if (this.#send(data)) this.field('message').value = ''
  }

  // send reports whether there was a connection to send data on.
  #send(data) {
    if (this.#ws?.readyState !== WebSocket.OPEN) {
      this.#complain('Connect first.')
      return false
    }
    this.#complain('')
    this.#put(this.#ws, data)
    return true
  }

  #put(ws, data) {
    ws.send(data)
    this.#log.add('sent', describe(data))
    this.#sent++
    this.#counts()
  }

  aim(peerId) { this.field('target').value = peerId }

  #counts() { $('.count', this.#root).textContent = `${this.#sent.toLocaleString('en')} sent, ${this.#received.toLocaleString('en')} received` }

  #complain(text) { $('.problem', this.#root).textContent = text }

  #event(text, mood = '') { this.#log.add('event', { text, mood }) }

  #show(is, words) {
    const state = $('.state', this.#root), toggle = this.field('toggle')
    state.dataset.is = is
    state.textContent = words
    toggle.textContent = this.idle ? 'Connect' : 'Disconnect'
    toggle.classList.toggle('primary', this.idle)
    this.field('again').disabled = this.idle
    this.field('send').disabled = this.field('ping').disabled = is !== 'open'
    this.#complain('')
  }
}
