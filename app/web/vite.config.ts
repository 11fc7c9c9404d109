import react from '@vitejs/plugin-react'
import { defineConfig, type Plugin } from 'vite'

/** KaTeX's style sheet names each font three times; every browser that runs this page reads woff2. */
const woff2Only: Plugin = {
  name: 'woff2-only',
  enforce: 'pre',
  transform: (code, id) => (id.includes('katex.min.css') ? code.replace(/,url\([^)]*\.(woff|ttf)\) format\("\w+"\)/g, '') : null),
}

/** The body never scrolls; antd's lock against it under a dialog inserts a style that the security policy refuses. */
const noScrollLock: Plugin = {
  name: 'no-scroll-lock',
  enforce: 'pre',
  transform: (_, id) => (id.includes('portal/es/useScrollLocker') ? 'export default () => {}' : null),
}

export default defineConfig({
  plugins: [react(), woff2Only, noScrollLock],
  html: { cspNonce: '__NONCE__' }, // the server writes a fresh one into each index.html
  build: {
    outDir: '../page',
    emptyOutDir: true,
    assetsInlineLimit: 0, // fonts as files: the policy has no data: for them
    chunkSizeWarningLimit: 1200,
  },
  server: { proxy: { '/api': 'http://127.0.0.1:8080' } },
})
