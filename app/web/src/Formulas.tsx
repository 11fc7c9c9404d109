/** Markdown with formulas: a chunk of its own, with KaTeX and its fonts. */

import katex from 'katex'
import 'katex/dist/katex.min.css'
import { type ReactNode, useLayoutEffect, useRef } from 'react'
import ReactMarkdown, { type Components } from 'react-markdown'
import remarkMath from 'remark-math'
import { OPTIONS } from './Markdown'
import { formulas } from './words'

const PLUGINS = [...OPTIONS.remarkPlugins!, [remarkMath, { singleDollarTextMath: false }]] as typeof OPTIONS.remarkPlugins

const components: Components = {
  ...OPTIONS.components,
  code: ({ className = '', children }) =>
    className.includes('math') ? <Formula source={String(children)} display={className.includes('math-display')} /> : <code>{children}</code>,
  pre: ({ node, children }) => (isFormula(node?.children[0]) ? children : <pre tabIndex={0}>{children}</pre>) as ReactNode,
}

function isFormula(node: unknown): boolean {
  const { properties } = (node ?? {}) as { properties?: { className?: string[] } }
  return !!properties?.className?.includes('math-display')
}

/** KaTeX draws into the element itself: as HTML text, its inline styles would break the content security policy. */
function Formula({ source, display }: { source: string; display: boolean }) {
  const place = useRef<HTMLSpanElement>(null)
  useLayoutEffect(() => katex.render(source, place.current!, { displayMode: display, throwOnError: false }), [source, display])
  return <span ref={place} />
}

export default function Formulas({ text }: { text: string }) {
  return (
    <ReactMarkdown {...OPTIONS} remarkPlugins={PLUGINS} components={components}>
      {formulas(text)}
    </ReactMarkdown>
  )
}
