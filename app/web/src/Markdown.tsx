/** Markdown as React elements: HTML in it is text, images are links, KaTeX is loaded for the first formula only. */

import { lazy, Suspense } from 'react'
import ReactMarkdown, { type Components, type Options } from 'react-markdown'
import remarkCjkFriendly from 'remark-cjk-friendly'
import remarkGfm from 'remark-gfm'
import { hasFormula } from './words'

const Formulas = lazy(() => import('./Formulas').catch(() => ({ default: Plain }))) // offline, or after an upgrade
const SAFE = /^(https?:|mailto:|tel:)/i

const heading = (level: number) =>
  function Heading({ children }: { children?: React.ReactNode }) {
    return <h3 className={`level-${level}`}>{children}</h3> // one level, so that no answer skips one
  }

const components: Components = {
  h1: heading(1),
  h2: heading(2),
  h3: heading(3),
  h4: heading(4),
  h5: heading(4),
  h6: heading(4),
  a: ({ href, children }) =>
    href ? (
      <a href={href} target="_blank" rel="noopener noreferrer nofollow">
        {children}
      </a>
    ) : (
      <span>{children}</span>
    ),
  img: ({ src, alt }) => <span>{alt || (typeof src === 'string' ? src : '') || '图片'}</span>,
  table: ({ children }) => (
    <div className="table" role="region" aria-label="表格" tabIndex={0}>
      <table>{children}</table>
    </div>
  ),
  pre: ({ children }) => <pre tabIndex={0}>{children}</pre>,
}

export const OPTIONS: Options = {
  remarkPlugins: [[remarkGfm, { singleTilde: false }], remarkCjkFriendly], // 2~3 次 is a range
  components,
  urlTransform: (url) => (SAFE.test(url) ? url : ''),
}

function Plain({ text }: { text: string }) {
  return <ReactMarkdown {...OPTIONS}>{text}</ReactMarkdown>
}

export function Markdown({ text }: { text: string }) {
  const plain = <Plain text={text} />
  return (
    <div className="markdown">
      {hasFormula(text) ? (
        <Suspense fallback={plain}>
          <Formulas text={text} />
        </Suspense>
      ) : (
        plain
      )}
    </div>
  )
}
