// Open pages in Chromium at several widths and print, as JSON, what a reader would trip over. Usage:
// CHROMIUM=/path/to/chromium node pages.mjs OUT PAGE.html [PAGE.html …]   (OUT: folder of the pictures)
// PIECES: most pictures of a page, 8 by default.
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';

const require = createRequire(process.cwd() + '/');
const { chromium } = require('playwright-core');
const axe = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
const [out, ...pages] = process.argv.slice(2);
const HIGH = 1000, PATIENCE = 600_000, MOST = Number(process.env.PIECES ?? 8);

// What lies outside its place: the page beside the window, and parts of the regions that scroll.
const measure = () => {
  const root = document.documentElement;
  const hidden = [...document.querySelectorAll('.wide')]
    .filter(box => box.scrollWidth > box.clientWidth + 1)
    .map(box => [box.getAttribute('aria-label'), box.scrollWidth, box.clientWidth]);
  const empty = [...document.querySelectorAll('img')].filter(image => !image.naturalWidth).map(image => image.alt);
  return { window: root.clientWidth, page: root.scrollWidth, hidden, empty };
};

// Click each head of each table twice; each column's numbers must rise, then fall.
const sort = () => {
  const wrong = [];
  for (const table of document.querySelectorAll('table')) {
    const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells], count = body.rows.length;
    if (count < 2 || count > 400) continue;
    for (const [column, head] of heads.entries()) for (const up of [true, false]) {
      head.querySelector('button').click();
      const cells = [...body.rows].filter(row => !row.classList.contains('mean')).map(row => row.cells[column]);
      const own = cells.map(cell => parseFloat(cell.dataset.value ?? cell.textContent)).filter(value => !isNaN(value));
      const right = own.length < cells.length || own.every((value, i) => !i || (up ? own[i - 1] <= value : own[i - 1] >= value));
      const told = head.getAttribute('aria-sort') === (up ? 'ascending' : 'descending');
      if (!right || !told || body.rows.length !== count) wrong.push([table.caption.textContent, head.textContent, up]);
    }
  }
  return wrong;
};

const faults = async () => (await axe.run()).violations.map(v => [v.impact, v.id, v.nodes.length, v.nodes[0].html.slice(0, 160)]);

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ['--no-sandbox', '--headless=shell', '--disable-gpu'] });
for (const file of pages) for (const width of [1280, 480]) {
  const page = await browser.newPage({ viewport: { width, height: HIGH } });
  page.setDefaultTimeout(PATIENCE);
  const seen = { file, width, errors: [], requests: [] };
  page.on('pageerror', error => seen.errors.push(String(error)));
  page.on('request', r => { if (!/^(file|data):/.test(r.url())) seen.requests.push(r.url()); });
  await page.goto('file://' + file);
  const name = `${out}/${basename(file, '.html')}_${width}`;
  const pieces = async mark => {
    const high = await page.evaluate(() => document.documentElement.scrollHeight);
    for (let top = 0, i = 0; top < Math.min(high, MOST * HIGH); top += HIGH, i++) {
      const clip = { x: 0, y: top, width, height: Math.min(HIGH, high - top) };
      await page.screenshot({ path: `${name}${mark}_${String(i).padStart(2, '0')}.png`, fullPage: true, clip });
    }
  };
  await pieces('');
  Object.assign(seen, await page.evaluate(measure));
  await page.addScriptTag({ content: axe });
  seen.axe = await page.evaluate(faults);
  seen.details = await page.evaluate(() => {
    const all = [...document.querySelectorAll('details')];
    for (const own of all) own.querySelector('summary').click();
    return [all.filter(own => own.open).length, all.length];
  });
  seen.axe_opened = await page.evaluate(faults);
  const opened = await page.evaluate(measure);
  Object.assign(seen, { page_opened: opened.page, empty_opened: opened.empty, hidden_opened: opened.hidden.slice(seen.hidden.length) });
  await pieces('_opened');
  seen.sort = await page.evaluate(sort);
  console.log(JSON.stringify(seen));
  await page.close();
}
await browser.close();
