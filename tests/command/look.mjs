// Opens a page in a browser and says what stands in it: node look.mjs PAGE, in a folder with the two packages.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
const here = createRequire(process.cwd() + '/');
const load = async name => (await import(pathToFileURL(here.resolve(name)))).default;
const [chromium, puppeteer] = [await load('@sparticuz/chromium'), await load('puppeteer-core')];
const path = await chromium.executablePath();
const browser = await puppeteer.launch({ args: chromium.args, executablePath: path, headless: 'shell' });
const page = await browser.newPage();
await page.setViewport({ width: 1200, height: 900 });
const said = [];
page.on('console', message => said.push(message.text()));
page.on('pageerror', error => said.push(String(error)));
page.on('request', asked => { if (!/^(file|data):/.test(asked.url())) said.push(asked.url()); });
await page.goto(pathToFileURL(process.argv[2]).href);
const shown = await page.evaluate(() => ({
  rows: document.querySelectorAll('tbody tr').length,
  sizes: [...document.querySelectorAll('figure svg')].map(each => each.getBoundingClientRect())
    .map(each => [each.width, each.height]),
  wide: document.documentElement.scrollWidth > innerWidth,
}));
console.log(JSON.stringify({ ...shown, said }));
await browser.close();
