const span = 15 * 60_000 // what a chart shows, in milliseconds

function count(n) { return Math.round(n).toLocaleString('en') }

function rate(n) { return n === 0 || n >= 100 ? count(n) : n >= 10 ? n.toFixed(1) : n.toFixed(2) }

function scaled(n, base, units) {
  let i = 0
  for (; Math.abs(n) >= base && i + 1 < units.length; i++) n /= base
  return `${i === 0 || n >= 100 ? Math.round(n) : n >= 10 ? n.toFixed(1) : n.toFixed(2)} ${units[i]}`
}

function bytes(n) { return scaled(n, 1024, ['B', 'KiB', 'MiB', 'GiB', 'TiB']) }

function duration(s) { return s < 1 ? scaled(s * 1e6, 1000, ['µs', 'ms']) : `${s.toFixed(s < 10 ? 2 : 1)} s` }

// short is for the axis, where there is little room.
function short(text) { return text.replace(/\.0+(?=\D|$)|(\.\d*?)0+(?=\D|$)/, '$1') }

function shortCount(n) { return n < 1000 ? String(+n.toPrecision(6)) : short(scaled(n, 1000, ['', 'k', 'M', 'G'])).replace(' ', '') }

const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' })
const minutes = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit' })

// ticks returns round values from 0 to at least most, three or four of them. base is 1024 for bytes.
function ticks(most, base, least) {
  const top = Math.max(most, least)
  const unit = base === 1024 ? 1024 ** Math.floor(Math.log(Math.max(top, 1)) / Math.log(1024)) : 1
  const rough = top / unit / 3, power = 10 ** Math.floor(Math.log10(rough))
  const step = [1, 2, 5, 10].find(m => m * power >= rough * 0.999) * power * unit
  const values = [0]
  while (values.at(-1) < top * 0.999) values.push(values.length * step)
  return values
}

function svg(name, attributes, parent) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', name)
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value)
  parent?.append(element)
  return element
}

function html(name, className, parent, text = '') {
  const element = document.createElement(name)
  element.className = className
  element.textContent = text
  parent?.append(element)
  return element
}

// Chart draws some series of numbers over the last minutes. Its elements are made once.
class Chart {
  #options; #plot; #strokes; #area; #dots; #cursor; #grid; #marks; #values; #aside; #waiting
  #width = 0; #height = 0 // of the plot, known from its observer: asking for them would have the page laid out
  #samples = []; #end = 0; #restarts = []
  #x; #y // from a time and a value to the plot's coordinates
  #pointed = null; #index = null // the time that is pointed at, and its sample's index

  // options: title, series (name, and of, which takes a sample and returns a number or null), format for
  // values, tick for the axis, base, least (the smallest top of the axis), remark (of the last sample).
  // move is called with the time that is pointed at, or null.
  constructor(parent, options, move) {
    this.#options = options
    const root = html('figure', 'card chart', parent)
    root.tabIndex = 0
    root.setAttribute('role', 'group')
    root.setAttribute('aria-label', `${options.title}, the last 15 minutes`)
    const caption = html('figcaption', 'caption', root)
    html('h2', '', caption, options.title)
    this.#aside = html('span', 'aside', caption)
    const legend = html('dl', 'legend', root)
    this.#values = options.series.map(({ name }, i) => {
      const item = html('div', '', legend)
      const term = html('dt', '', item)
      svg('path', { d: 'M1 4H19', class: `stroke stroke${i}` }, svg('svg', { viewBox: '0 0 20 8', 'aria-hidden': 'true' }, term))
      term.append(name)
      return html('dd', '', item, '–')
    })
    this.#plot = svg('svg', { class: 'plot', 'aria-hidden': 'true' }, root)
    this.#grid = svg('g', {}, this.#plot)
    this.#area = svg('path', { class: 'area' }, this.#plot)
    this.#strokes = options.series.map((_, i) => svg('path', { class: `stroke stroke${i}` }, this.#plot))
    this.#marks = svg('g', {}, this.#plot)
    this.#cursor = svg('path', { class: 'cursor' }, this.#plot)
    this.#dots = options.series.map((_, i) => svg('circle', { r: 4, class: `dot dot${i}` }, this.#plot))
    this.#waiting = html('p', 'waiting muted', root, 'The first sample comes in a few seconds.')
    this.#listen(root, move)
    new ResizeObserver(([{ contentRect }]) => {
      this.#width = contentRect.width
      this.#height = contentRect.height
      this.#draw()
    }).observe(this.#plot)
  }

  #listen(root, move) {
    this.#plot.addEventListener('pointermove', e => {
      const box = this.#plot.getBoundingClientRect()
      const { left, width } = this.#frame()
      move(this.#end - span + (e.clientX - box.left - left) / width * span)
    })
    this.#plot.addEventListener('pointerleave', () => move(null))
    root.addEventListener('blur', () => move(null))
    root.addEventListener('keydown', e => {
      const last = this.#samples.length - 1
      const at = this.#index ?? last
      const to = { ArrowLeft: Math.max(at - 1, 0), ArrowRight: Math.min(at + 1, last), Home: 0, End: last }[e.key]
      if (e.key === 'Escape') move(null)
      if (to === undefined || last < 0) return
      e.preventDefault()
      move(this.#samples[to].at)
    })
  }

  #frame() {
    return { left: 54, top: 10, width: Math.max(this.#width - 54 - 6, 1), height: Math.max(this.#height - 10 - 20, 1) }
  }

  // show draws samples up to the time end, and the times of restarts.
  show(samples, end, restarts) {
    [this.#samples, this.#end, this.#restarts] = [samples, end, restarts]
    this.#waiting.hidden = samples.length > 0
    this.#draw()
  }

  #draw() {
    const frame = this.#frame()
    const x = at => frame.left + (1 - (this.#end - at) / span) * frame.width
    let most = 0
    for (const s of this.#samples) for (const { of } of this.#options.series) most = Math.max(most, of(s) ?? 0)
    const values = ticks(most, this.#options.base, this.#options.least)
    const y = v => frame.top + (1 - v / values.at(-1)) * frame.height
    this.#x = x
    this.#y = y
    this.#drawGrid(frame, x, y, values)
    this.#options.series.forEach(({ of }, i) => {
      const { line, area } = this.#paths(of, x, y)
      this.#strokes[i].setAttribute('d', line)
      if (i === 0) this.#area.setAttribute('d', area)
    })
    this.point(this.#pointed)
  }

  #drawGrid(frame, x, y, values) {
    this.#grid.replaceChildren()
    this.#marks.replaceChildren()
    const right = frame.left + frame.width, bottom = frame.top + frame.height
    for (const v of values) {
      svg('path', { class: 'rule', d: `M${frame.left} ${y(v)}H${right}` }, this.#grid)
      svg('text', { x: frame.left - 8, y: y(v) + 4, 'text-anchor': 'end' }, this.#grid).textContent = this.#options.tick(v)
    }
    if (!this.#end) return
    const step = 5 * 60_000
    for (let at = Math.ceil((this.#end - span) / step) * step; at <= this.#end; at += step) {
      const anchor = x(at) > right - 16 ? 'end' : x(at) < frame.left + 16 ? 'start' : 'middle'
      svg('text', { x: x(at), y: bottom + 16, 'text-anchor': anchor }, this.#grid).textContent = minutes.format(at)
      svg('path', { class: 'rule', d: `M${x(at)} ${bottom}v4` }, this.#grid)
    }
    for (const at of this.#restarts.filter(at => at > this.#end - span)) {
      const label = svg('text', { class: 'restartLabel', x: x(at) - 5, y: frame.top + 10, 'text-anchor': x(at) > frame.left + 60 ? 'end' : 'start' }, this.#marks)
      label.textContent = 'restart'
      svg('path', { class: 'restart', d: `M${x(at)} ${frame.top}V${bottom}` }, this.#marks)
    }
  }

  // paths returns a line that is broken where there is no value, and the area under it.
  #paths(of, x, y) {
    let line = '', area = '', run = []
    const end = () => {
      if (run.length === 1) line += `M${run[0]}h.01` // a dot, by its round ends
      if (run.length > 1) {
        line += `M${run.join('L')}`
        area += `M${run[0].split(' ')[0]} ${y(0)}L${run.join('L')}V${y(0)}Z`
      }
      run = []
    }
    for (const s of this.#samples) {
      const v = of(s)
      if (s.gap || v === null) end()
      if (v !== null) run.push(`${x(s.at).toFixed(1)} ${y(v).toFixed(1)}`)
    }
    end()
    return { line, area }
  }

  // point shows the values at a time in the legend, or those of the last sample for null.
  point(at) {
    this.#pointed = at
    const near = s => Math.abs(s.at - at)
    this.#index = at === null || this.#samples.length === 0 ? null
      : this.#samples.reduce((best, s, i) => near(s) < near(this.#samples[best]) ? i : best, 0)
    const s = this.#samples[this.#index ?? this.#samples.length - 1]
    this.#cursor.setAttribute('d', '')
    this.#aside.textContent = this.#index !== null ? `at ${clock.format(s.at)}` : s && this.#options.remark ? this.#options.remark(s) : ''
    this.#options.series.forEach(({ of }, i) => {
      const v = s ? of(s) : null
      const text = v === null ? '–' : this.#options.format(v)
      if (this.#values[i].textContent !== text) this.#values[i].textContent = text
      const shown = this.#index !== null && v !== null
      this.#dots[i].toggleAttribute('hidden', !shown)
      if (shown) {
        this.#dots[i].setAttribute('cx', this.#x(s.at))
        this.#dots[i].setAttribute('cy', this.#y(v))
      }
    })
    if (this.#index === null) return
    const { top, height } = this.#frame()
    this.#cursor.setAttribute('d', `M${this.#x(s.at)} ${top}v${height}`)
  }
}
